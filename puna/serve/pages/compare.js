// Two runs: their curves over each other, and their results task by task.
import { chart } from "./chart.js";
import { el, error, get, plain, tone } from "./dom.js";
import { api, hash } from "./place.js";

export async function compare(a, b, stageA = "", stageB = "") {
  const runs = await Promise.all([a, b].map((name) => get(api(name))));
  const curves = el("div", { class: "charts" });
  const stages = a === b ? [] : runs[0].stages.filter((s) => s.has_curve
    && runs[1].stages.some((o) => o.id === s.id && o.has_curve));
  for (const stage of stages) over(curves, [a, b], stage.id);
  const choice = (run, chosen, label) => el("label", {}, `${label}: ${run.name}`, el("select",
    { "aria-label": `Stage of ${label}` }, ["", ...run.stages.map((s) => s.id)].map((id) =>
      el("option", { value: id, selected: id === chosen }, id || "last that was scored"))));
  const left = choice(runs[0], stageA, "A"), right = choice(runs[1], stageB, "B");
  const form = el("div", { class: "bar" }, left, right);
  form.addEventListener("change", () => {
    location.hash = hash("compare", a, b, left.lastChild.value, right.lastChild.value);
  });
  const spot = el("div", {}, el("p", { class: "soft" }, "reading the results …"));
  get("/api/compare", { a, b, stage_a: stageA, stage_b: stageB })
    .then((found) => spot.replaceChildren(...results(found)))
    .catch((problem) => spot.replaceChildren(error(problem)));
  return [el("p", { class: "small" }, el("a", { href: "#" }, "all runs")),
    el("h1", {}, plain(`${b} against ${a}`)), form, spot, ...(a === b ? [] : [
      el("h2", {}, "Curves"), stages.length ? curves
        : el("p", { class: "soft" }, "no stage of one name left curves in both")])];
}

async function over(curves, names, stage) {
  const spot = el("div");
  curves.append(spot);
  try {
    const [one, two] = await Promise.all(names.map((n) => get(api(n, "/curve"), { stage })));
    const keys = Object.keys(one.series).filter((k) => two.series[k]);
    spot.replaceWith(...keys.slice(0, 2).map((key) =>
      chart(`${stage}: ${key.replaceAll("_", " ")}`, [one, two].map((c, i) =>
        ({ name: names[i], points: c.series[key] })))));
  } catch (problem) {
    spot.replaceWith(error(problem));
  }
}

function results(found) {
  const left = found.left_out.map((why) =>
    el("p", { class: "soft small" }, plain(`left out: ${why}`)));
  if (found.why) return [el("p", { class: "soft" }, plain(found.why)), ...left];
  return [...found.suites.flatMap(suite), ...left];
}

function suite(s) {
  const figure = (e, sign = "") => {
    const text = (v) => (sign && v >= 0 ? "+" : "") + v.toFixed(3);
    return `${text(e.mean)} [${text(e.low)}, ${text(e.high)}]`;
  };
  const solved = Object.entries(s.solved).map(([who, n]) => `${who} ${n}`).join(", ");
  const facts = [["A", figure(s.a.value)], ["B", figure(s.b.value)],
    ["B minus A", figure(s.difference, "+")], ["solved by", solved]];
  return [el("h2", {}, plain(s.title)),
    el("p", {}, el("strong", { class: tone(s.verdict) }, s.verdict),
      ` over ${s.tasks.toLocaleString()} tasks in common, ${s.role}`),
    el("dl", {}, facts.map(([k, v]) => [el("dt", {}, k), el("dd", {}, v)])),
    el("div", { class: "sides" }, pairs("B ahead", s.wins, s.n_wins),
      pairs("A ahead", s.losses, s.n_losses))];
}

function pairs(head, rows, all) {
  const lines = rows.map((p) => el("tr", {}, el("td", {}, plain(p.task)),
    el("td", {}, p.a.toFixed(3)), el("td", {}, p.b.toFixed(3))));
  return el("div", { class: "scroll" }, el("table", {}, el("caption", {},
    `${head}: ${rows.length} of ${all.toLocaleString()} tasks`),
  el("thead", {}, el("tr", {}, ["task", "A", "B"].map((h) => el("th", { scope: "col" }, h)))),
  el("tbody", {}, lines)));
}
