// One run: its stages, its table, curves, and where its episodes are.
import { chart } from "./chart.js";
import { el, error, get, plain, tone } from "./dom.js";
import { graph } from "./graph.js";
import { api, hash, title } from "./place.js";

export async function run(name) {
  const found = await get(api(name));
  const failed = found.stages.filter((s) => s.error)
    .map((s) => el("p", { class: "error" }, plain(`${s.id}: ${s.error}`)));
  const files = found.files.map((f) => el("li", {},
    el("a", { href: hash("run", name, f, "0") }, plain(title(f)))));
  const audits = found.stages.filter((s) => s.has_audit).map((s) => el("li", {},
    el("a", { href: hash("run", name, "audit", s.id) }, plain(`reward of ${s.id}`))));
  const curves = el("div", { class: "charts" });
  for (const stage of found.stages.filter((s) => s.has_curve)) draw(curves, name, stage.id);
  return [el("p", { class: "small" }, el("a", { href: "#" }, "all runs"),
    found.report ? [" · ", el("a", { href: api(name, "/report"), download: true },
      "save the report")] : ""),
  el("h1", {}, plain(found.title)), graph(found.stages), ...failed, table(found.rows),
  el("h2", {}, "Curves"), curves,
  el("h2", {}, "Episodes"),
  files.length ? el("ul", { class: "files" }, files)
    : el("p", { class: "soft" }, "no stage kept any yet"),
  ...(audits.length ? [el("h2", {}, "Audits"), el("ul", {}, audits)] : [])];
}

function draw(curves, name, stage) {
  const spot = el("div");
  curves.append(spot);
  get(api(name, "/curve"), { stage })
    .then((c) => spot.replaceWith(...Object.entries(c.series).slice(0, 2)
      .map(([key, points]) => chart(`${stage}: ${key.replaceAll("_", " ")}`,
        [{ name: "", points }]))))
    .catch((problem) => spot.replaceWith(error(problem)));
}

function figure(value, sign = "") {
  if (!value) return el("span", { class: "soft" }, "–");
  const text = (x) => (sign && x >= 0 ? sign : "") + x.toFixed(3);
  const range = value.low === null ? "" : `[${text(value.low)}, ${text(value.high)}]`;
  return el("span", {}, text(value.mean), el("span", { class: "range" }, range));
}

function table(rows) {
  const lines = rows.map((r) => el("tr", { class: r.of_group ? "seed" : null },
    el("th", { scope: "row" }, plain(r.of_group ? r.stage.split("@").pop() : r.stage),
      r.seeds.length ? el("span", { class: "range" }, `mean of ${r.seeds.length} seeds`) : ""),
    el("td", {}, plain(r.metric)), el("td", {}, figure(r.before)), el("td", {}, figure(r.after)),
    el("td", {}, figure(r.difference, "+")),
    el("td", { class: tone(r.verdict) }, r.state === "done" ? r.verdict : r.state),
    el("td", {}, r.cpu_seconds ? Math.round(r.cpu_seconds).toLocaleString() : "–")));
  const head = ["stage", "metric", "before", "after", "difference", "", "CPU-s"];
  return el("div", { class: "scroll", tabindex: "0" }, el("table", {},
    el("thead", {}, el("tr", {}, head.map((h) => el("th", { scope: "col" }, h)))),
    el("tbody", {}, lines)));
}
