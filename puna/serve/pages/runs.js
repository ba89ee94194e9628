// Runs, a run, its episodes. The place is in the address: #run/NAME and #run/NAME/FILE/N.
import { el, error, get, parts, svg } from "./dom.js";

const page = document.getElementById("page");
const path = (...names) => "#" + ["run", ...names].map(encodeURIComponent).join("/");

async function show() {
  page.replaceChildren(el("p", { class: "soft" }, "reading …"));
  try {
    const [, name, file, n] = location.hash.slice(1).split("/").map(decodeURIComponent);
    const made = file ? await episodes(name, file, n) : name ? await run(name) : await shelf();
    page.replaceChildren(...made);
    scrollTo(0, 0);
  } catch (problem) {
    page.replaceChildren(error(problem), el("p", {}, el("a", { href: "#" }, "all runs")));
  }
}

async function shelf() {
  const found = await get("/api/runs");
  document.title = "Puna: runs";
  if (!found.runs.length)
    return [el("h1", {}, "Runs"), el("p", {}, `There are no runs in ${found.folder} yet. Make one: `,
      el("code", {}, "puna run quickstart"))];
  const cards = found.runs.map((r) => el("li", {}, el("a", { href: path(r.name) },
    el("strong", {}, r.title),
    el("span", { class: "soft small" }, `${r.name} · `),
    el("span", { class: `small ${tone(r.state)}` }, `${r.done} of ${r.stages} stages`),
    el("span", { class: "soft small" }, ` · ${new Date(r.updated * 1000).toLocaleString()}`))));
  const out = [el("h1", {}, "Runs"), el("ul", { class: "cards" }, cards)];
  if (found.skipped.length)
    out.push(el("p", { class: "soft" }, `not readable: ${found.skipped.join(", ")}`));
  return out;
}

function tone(state) {
  return { done: "good", failed: "bad", success: "good", failure: "bad", better: "good",
    worse: "bad" }[state] ?? "flat";
}

function figure(value, sign = "") {
  if (!value) return el("span", { class: "soft" }, "–");
  const text = (x) => (sign && x >= 0 ? sign : "") + x.toFixed(3);
  const range = value.low === null ? "" : `[${text(value.low)}, ${text(value.high)}]`;
  return el("span", {}, text(value.mean), el("span", { class: "range" }, range));
}

async function run(name) {
  const found = await get(`/api/runs/${encodeURIComponent(name)}`);
  document.title = `Puna: ${found.title}`;
  const rows = found.rows.map((r) => el("tr", { class: r.of_group ? "seed" : null },
    el("th", { scope: "row" }, r.of_group ? r.stage.split("@").pop() : r.stage,
      r.seeds.length ? el("span", { class: "range" }, `mean of ${r.seeds.length} seeds`) : ""),
    el("td", {}, r.metric), el("td", {}, figure(r.before)), el("td", {}, figure(r.after)),
    el("td", {}, figure(r.difference, "+")),
    el("td", { class: tone(r.verdict) }, r.state === "done" ? r.verdict : r.state),
    el("td", {}, r.cpu_seconds ? Math.round(r.cpu_seconds).toLocaleString() : "–")));
  const head = ["stage", "metric", "before", "after", "difference", "", "CPU-s"];
  const table = el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, head.map((h) => el("th", { scope: "col" }, h)))),
    el("tbody", {}, rows)));
  const failed = found.stages.filter((s) => s.error)
    .map((s) => el("p", { class: "error" }, `${s.id}: ${s.error}`));
  const files = found.files.map((f) => el("li", {},
    el("a", { href: path(name, f, "0") }, title(f))));
  const charts = el("div", { class: "charts" });
  for (const stage of found.stages.filter((s) => s.has_curve)) {
    const place = el("div");
    charts.append(place);
    get(`/api/runs/${encodeURIComponent(name)}/curve`, { stage: stage.id })
      .then((c) => place.replaceWith(...Object.entries(c.series).slice(0, 2)
        .map(([key, points]) => chart(`${stage.id}: ${key.replaceAll("_", " ")}`, points))))
      .catch((problem) => place.replaceWith(error(problem)));
  }
  return [el("p", { class: "small" }, el("a", { href: "#" }, "all runs")),
    el("h1", {}, found.title), lineage(found.stages), ...failed, table,
    el("h2", {}, "Curves"), charts,
    el("h2", {}, "Episodes"),
    files.length ? el("ul", {}, files) : el("p", { class: "soft" }, "no stage kept any yet")];
}

// "eval/episodes-rl-shop.jsonl" -> "rl-shop, by eval"; "rl/episodes.jsonl" -> "rl, while training".
function title(file) {
  const [stage, name] = file.replace(/\.jsonl$/, "").split("/");
  const of = name.replace(/^episodes-?/, "");
  return of ? `${of}, by ${stage}` : `${stage}, while training`;
}

function lineage(stages) {
  const line = stages.map((s) => `${s.id}${s.from.length ? ` ← ${s.from.join(", ")}` : ""}`);
  const text = line.length > 8 ? `${stages.length} stages` : line.join("  ·  ");
  return el("p", { class: "soft small" }, text);
}

function short(value) {
  return Number(value.toPrecision(3)).toString();
}

function chart(title, points) {
  const [w, h, left, bottom] = [320, 170, 52, 20];
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  if (y0 === y1) [y0, y1] = [y0 - 0.5, y1 + 0.5];
  const x = (v) => left + ((v - x0) / (x1 - x0 || 1)) * (w - left - 8);
  const y = (v) => h - bottom - ((v - y0) / (y1 - y0)) * (h - bottom - 10);
  const line = points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`);
  const label = (v) => svg("text", { x: left - 5, y: y(v) + 4, "text-anchor": "end" }, short(v));
  const rule = (v) => svg("path", { d: `M${left} ${y(v)}H${w - 8}`, stroke: "var(--rule)" });
  return el("figure", {}, svg("svg", { viewBox: `0 0 ${w} ${h}`, role: "img",
    "aria-label": `${title}, from ${short(ys[0])} to ${short(ys[ys.length - 1])}` },
  rule(y0), rule(y1), label(y0), label(y1),
  svg("text", { x: left, y: h - 5 }, short(x0)),
  svg("text", { x: w - 8, y: h - 5, "text-anchor": "end" }, `step ${short(x1)}`),
  svg("path", { d: line.join(""), fill: "none", stroke: "var(--accent)", "stroke-width": 1.6,
    "stroke-linejoin": "round" })), el("figcaption", {}, title));
}

async function episodes(name, file, n) {
  const base = `/api/runs/${encodeURIComponent(name)}`;
  document.title = `Puna: ${name}, ${file}`;
  const list = el("ol", { class: "list" });
  const view = el("div");
  const outcome = el("select", { "aria-label": "outcome" });
  const more = el("button", { type: "button" }, "more");
  const note = el("p", { class: "soft small" });
  let shown = 0;

  async function fill(anew) {
    if (anew) { list.replaceChildren(); shown = 0; }
    const got = await get(`${base}/episodes`, { file, outcome: outcome.value, offset: shown });
    shown += got.episodes.length;
    if (!outcome.options.length) {
      const all = Object.values(got.counts).reduce((a, b) => a + b, 0);
      outcome.append(el("option", { value: "" }, `all (${all})`),
        ...Object.entries(got.counts).map(([k, v]) => el("option", { value: k }, `${k} (${v})`)));
    }
    for (const e of got.episodes)
      list.append(el("li", {}, el("button", { type: "button", "data-n": e.n,
        onclick: () => { history.replaceState(null, "", path(name, file, String(e.n))); read(e.n); } },
      el("span", {}, e.step ? `step ${e.step} · ${e.task}` : e.task),
      el("span", { class: `badge ${tone(e.outcome)}` }, typeof e.value === "number" ? short(e.value) : e.outcome))));
    more.hidden = shown >= got.total;
    note.textContent = got.broken ? `${got.broken} lines could not be read` : "";
    return got.episodes;
  }

  async function read(number) {
    for (const b of list.querySelectorAll("button"))
      b.toggleAttribute("aria-current", b.dataset.n === String(number));
    try {
      view.replaceChildren(...episode(await get(`${base}/episode`, { file, n: number })));
    } catch (problem) {
      view.replaceChildren(error(problem));
    }
  }

  outcome.addEventListener("change", async () => {
    const first = await fill(true);
    if (first.length) read(first[0].n);
  });
  more.addEventListener("click", () => fill(false));
  const first = await fill(true);
  if (first.length) await read(Number(n) || 0);
  else view.append(el("p", { class: "soft" }, "no episodes yet"));
  return [el("p", { class: "small" }, el("a", { href: path(name) }, name)),
    el("h1", {}, title(file)),
    el("div", { class: "split" }, el("div", {}, outcome, list, more, note), view)];
}

function episode(e) {
  const facts = Object.entries(e.outcomes).flatMap(([role, o]) => [
    [role, `${o.kind}${typeof o.value === "number" ? ` ${short(o.value)}` : ""}`],
    ...Object.entries(o.parts ?? {}).map(([k, v]) => [`${k}`, String(v)]),
    ["why", o.evidence || o.reason || o.error || ""]]);
  facts.push(["ended", e.ended || ""],
    ...Object.entries(e.tags ?? {}).map(([k, v]) => [k, String(v)]));
  const turns = e.messages.map((m) => {
    const mine = m.speaker !== "env";
    return el("div", { class: "turn" }, el("div", { class: "who" },
      mine ? `${m.speaker ?? m.role}` : `${m.role}`),
    el("div", { class: "said" }, parts(m)));
  });
  return [el("p", {}, el("strong", {}, e.task), " ",
    el("span", { class: tone(e.outcome) }, e.outcome)), ...turns,
  el("dl", {}, facts.filter(([, v]) => v !== "").flatMap(([k, v]) =>
    [el("dt", {}, k), el("dd", {}, v)]))];
}

addEventListener("hashchange", show);
show();
