// What an episode changed: rows of a database, lines of a file.
import { el, plain } from "./dom.js";

export function changes(artifacts) {
  if (!artifacts) return [];
  return [el("h2", {}, "What it changed"), ...artifacts.map((a) => el("details",
    { class: "artifact", open: a.kind === "database" }, el("summary", {}, plain(a.name), " ",
      el("span", { class: "soft small" }, brief(a))), ...inside(a)))];
}

function brief(a) {
  if (a.kind === "gone") return "not left";
  const size = `${a.bytes.toLocaleString()} bytes`;
  return a.compared ? size : `${size}; what it was before is not known`;
}

function inside(a) {
  if (a.kind === "database") return a.tables.map((t) => table(t, a.compared));
  if (a.kind === "text") return [el("pre", { class: "diff", tabindex: "0" }, a.lines.map(line)),
    a.cut ? el("p", { class: "soft small" }, "and more") : null].filter(Boolean);
  return [];
}

function line([sign, text]) {
  const kind = { "+": "added", "-": "removed", "@": "where" }[sign] ?? "";
  return el("span", { class: `row ${kind}` }, sign === "@" ? "…" : `${sign} `,
    ...(sign === "@" ? [] : plain(text)), "\n");
}

function table(t, compared) {
  const touched = t.added.length + t.removed.length + t.changed.length;
  const same = `${t.same.toLocaleString()} rows`;
  if (compared && !touched)
    return el("p", { class: "soft small" }, plain(t.table), `: ${same}, none changed`);
  const rows = compared ? [...t.removed.map((r) => row("removed", "−", r)),
    ...t.changed.flatMap(([a, b]) => both(a, b)),
    ...t.added.map((r) => row("added", "+", r))] : (t.rows ?? []).map((r) => row("", "", r));
  return el("div", {}, el("p", { class: "small" }, el("strong", {}, plain(t.table)),
    compared ? el("span", { class: "soft" }, `, ${same} as before`) : ""),
  el("div", { class: "scroll", tabindex: "0" }, el("table", { class: "changes" },
    el("thead", {}, el("tr", {}, el("td"), t.columns.map((c) =>
      el("th", { scope: "col" }, plain(c))))), el("tbody", {}, rows))));
}

function row(kind, sign, values, marked = []) {
  const word = { added: "added", removed: "removed" }[kind];
  return el("tr", { class: kind }, el("td", { "aria-label": word }, sign), values.map((v, i) =>
    el("td", { class: marked.includes(i) ? "marked" : null },
      v === null ? el("span", { class: "soft" }, "null") : plain(v))));
}

function both(a, b) {
  const marked = a.map((v, i) => (v === b[i] ? -1 : i)).filter((i) => i >= 0);
  return [row("removed", "−", a, marked), row("added", "+", b, marked)];
}
