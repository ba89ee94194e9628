// Audits of rewards that were made on this machine, and what each probe of one found.
import { el, get, plain } from "./dom.js";
import { api, hash } from "./place.js";

const MARKS = { ok: "ok", hole: "FAILED", note: "note", none: "–" };

export async function audits() {
  const found = await get("/api/audits");
  const head = ["reward", "version", "verdict", "holes", "tasks", "settings"];
  const rows = found.audits.map((a) => el("tr", {},
    el("th", { scope: "row" }, el("a", { href: hash("audits", a.file) }, plain(a.target))),
    el("td", {}, plain(a.env.version)),
    el("td", { class: a.passed ? "good" : "bad" }, a.passed ? "passed" : "failed"),
    el("td", { class: "wrap" }, plain(a.holes.join(", ") || "–")),
    el("td", {}, a.n), el("td", { class: "wrap" }, plain(settings(a)))));
  const out = [el("p", { class: "small" }, el("a", { href: "#" }, "all runs")),
    el("h1", {}, "Audits")];
  if (!rows.length) out.push(el("p", {}, "None was made on this machine yet. Make one: ",
    el("code", {}, "puna audit arithmetic")));
  else out.push(el("div", { class: "scroll", tabindex: "0" }, el("table", {},
    el("thead", {}, el("tr", {}, head.map((h) => el("th", { scope: "col" }, h)))),
    el("tbody", {}, rows))));
  if (found.skipped) out.push(el("p", { class: "soft" },
    `${found.skipped} records are of another version or broken`));
  return out;
}

function settings(a) {
  const told = Object.entries(a.settings).map(([k, v]) => `${k} ${JSON.stringify(v)}`);
  return told.join(", ") || "as shipped";
}

export async function audit(file) {
  return one(await get(`/api/audits/${encodeURIComponent(file)}`), "#audits", "all audits");
}

export async function ofStage(name, stage) {
  return one(await get(api(name, "/audit"), { stage }), hash("run", name), name);
}

function one(a, back, where) {
  const verdict = el("strong", { class: a.passed ? "good" : "bad" }, a.passed
    ? "Passed: no probe found a hole." : "Failed.");
  const rows = (a.findings ?? []).map((f) => el("tr", {},
    el("th", { scope: "row" }, plain(f.probe)),
    el("td", { class: f.status === "hole" ? "bad" : "soft" }, MARKS[f.status] ?? f.status),
    el("td", { class: "wrap" }, plain(f.seen), el("span", { class: "range" }, plain(f.reason)),
      f.evidence?.length || f.status === "hole" ? el("details", {},
        el("summary", { class: "small" }, "how to see it again"), el("pre", {}, plain(f.command)),
        el("ul", {}, (f.evidence ?? []).map((e) => el("li", {}, plain(e))))) : "")));
  return [el("p", { class: "small" }, el("a", { href: back }, plain(where))),
    el("h1", {}, plain(`Audit of ${a.env?.name ?? "a reward"} ${a.env?.version ?? ""}`)),
    el("p", {}, verdict, el("span", { class: "soft" },
      ` ${a.n} tasks of each split · settings ${settings(a)} · hash ${a.env?.hash}`
        + ` · record ${a.id}`)),
    el("div", { class: "scroll", tabindex: "0" }, el("table", { class: "audit" },
      el("thead", {}, el("tr", {}, ["probe", "", "seen, and why it is asked"].map((h) =>
        el("th", { scope: "col" }, h)))), el("tbody", {}, rows)))];
}
