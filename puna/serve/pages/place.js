// Addresses of the viewer's pages and of what they read.

export const hash = (...names) => "#" + names.map(encodeURIComponent).join("/");
export const api = (name, rest = "") => `/api/runs/${encodeURIComponent(name)}${rest}`;

// "eval/episodes-rl-shop.jsonl" -> "rl-shop, by eval"; "rl/episodes.jsonl" -> "rl, while training".
export function title(file) {
  const [stage, name] = file.replace(/\.jsonl$/, "").split("/");
  const of = name.replace(/^episodes-?/, "");
  return of ? `${of}, by ${stage}` : `${stage}, while training`;
}
