// Stages left to right, each a column after the last of its parents.
import { el, svg } from "./dom.js";

const [WIDE, HIGH, GAP_X, GAP_Y] = [132, 40, 30, 10];
const MOST = 60;  // stages: more are told by their number

export function graph(stages) {
  if (stages.length > MOST) return el("p", { class: "soft small" }, `${stages.length} stages`);
  const places = new Map(), filled = [];
  for (const stage of stages) {
    const parents = stage.from.filter((p) => places.has(p)).map((p) => places.get(p).column);
    const column = 1 + Math.max(-1, ...parents);
    const row = filled[column] ?? 0;
    filled[column] = row + 1;
    places.set(stage.id, { column, row, x: column * (WIDE + GAP_X), y: row * (HIGH + GAP_Y) });
  }
  const width = filled.length * (WIDE + GAP_X) - GAP_X;
  const height = Math.max(...filled) * (HIGH + GAP_Y) - GAP_Y;
  const edges = stages.flatMap((s) => s.from.filter((p) => places.has(p))
    .map((p) => edge(places.get(p), places.get(s.id))));
  return el("div", { class: "scroll", tabindex: "0" }, svg("svg", { class: "graph",
    viewBox: `-1 -1 ${width + 2} ${height + 2}`, width: width + 2, height: height + 2, role: "img",
    "aria-label": stages.map((s) => `${s.id} from ${s.from.join(", ") || "nothing"}`).join("; ") },
  ...edges, ...stages.map((s) => node(s, places.get(s.id)))));
}

function edge(a, b) {
  const [x1, y1, x2, y2] = [a.x + WIDE, a.y + HIGH / 2, b.x, b.y + HIGH / 2];
  const middle = x2 - GAP_X / 2;
  return svg("path", { class: "edge",
    d: `M${x1} ${y1}C${middle} ${y1} ${middle - GAP_X / 4} ${y2} ${x2} ${y2}` });
}

function node(stage, { x, y }) {
  const short = stage.id.length > 17 ? `${stage.id.slice(0, 16)}…` : stage.id;
  return svg("g", { class: `stage ${stage.state}` }, svg("title", {}, stage.id),
    svg("rect", { x, y, width: WIDE, height: HIGH, rx: 7 }),
    svg("text", { x: x + 9, y: y + 17, class: "name" }, short),
    svg("text", { x: x + 9, y: y + 32 }, stage.state === "done" ? stage.kind
      : `${stage.kind}, ${stage.state}`));
}
