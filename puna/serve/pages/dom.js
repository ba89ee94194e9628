// Elements and requests. Text goes in through text nodes only: models write it.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined));
  return made;
}

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes))
    if (value !== null) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function button(text, act, attributes = {}) {
  return el("button", { type: "button", onclick: act, ...attributes }, text);
}

// What would turn the direction of writing around, or show as nothing, is named instead.
const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;

export function plain(text) {
  const whole = String(text).replaceAll("\r\n", "\n"), out = [];
  let from = 0;
  for (const found of whole.matchAll(HIDDEN)) {
    const code = found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    if (found.index > from) out.push(whole.slice(from, found.index));
    out.push(el("span", { class: "hidden-mark" }, `U+${code}`));
    from = found.index + 1;
  }
  out.push(whole.slice(from));
  return out;
}

export async function whyNot(response) {
  try {
    const body = await response.json();
    const why = body.error?.message ?? body.detail ?? response.status;
    return typeof why === "string" ? why : JSON.stringify(why);
  } catch {
    return `the server answered ${response.status}`;
  }
}

export async function get(path, query = {}) {
  const found = new URLSearchParams(query).toString();
  let response;
  try {
    response = await fetch(found ? `${path}?${found}` : path);
  } catch {
    throw new Error("the server does not answer: is puna serve still running?");
  }
  if (!response.ok) throw new Error(await whyNot(response));
  return response.json();
}

export function error(problem) {
  return el("p", { class: "error", role: "alert" }, plain(problem.message ?? problem));
}

export function short(value) {
  return Number(value.toPrecision(3)).toString();
}

export function tone(state) {
  return { done: "good", failed: "bad", success: "good", failure: "bad", better: "good",
    worse: "bad" }[state] ?? "flat";
}
