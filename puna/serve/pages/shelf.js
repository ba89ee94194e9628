// All runs of the folder, and two of them to compare.
import { el, get, plain, tone } from "./dom.js";
import { hash } from "./place.js";

export async function shelf() {
  const found = await get("/api/runs");
  if (!found.runs.length)
    return [el("h1", {}, "Runs"), el("p", {}, plain(`There are no runs in ${found.folder} yet.`),
      " Make one: ", el("code", {}, "puna run quickstart"))];
  const cards = found.runs.map((r) => el("li", {}, el("a", { href: hash("run", r.name) },
    el("strong", {}, plain(r.title)),
    el("span", { class: "soft small" }, plain(r.name), " · "),
    el("span", { class: `small ${tone(r.state)}` }, `${r.done} of ${r.stages} stages`),
    el("span", { class: "soft small" }, ` · ${new Date(r.updated * 1000).toLocaleString()}`))));
  const out = [el("h1", {}, "Runs"), el("ul", { class: "cards" }, cards)];
  if (found.runs.length > 1) out.push(pair(found.runs));
  if (found.skipped.length)
    out.push(el("p", { class: "soft" }, `not readable: ${found.skipped.join(", ")}`));
  return out;
}

function pair(runs) {
  const choice = (label, chosen) => el("label", {}, label,
    el("select", { "aria-label": `Run ${label}` }, runs.map((r, i) =>
    el("option", { value: r.name, selected: i === chosen }, r.name))));
  const a = choice("A", 1), b = choice("B", 0);
  const form = el("form", { class: "bar" }, a, b,
    el("button", { type: "submit" }, "Compare"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = hash("compare", a.lastChild.value, b.lastChild.value);
  });
  return el("section", {}, el("h2", {}, "Two runs compared"), form);
}
