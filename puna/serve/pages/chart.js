// Curves over steps with a readout: chart("rl: reward", [{ name: "A", points: [[1, 0.2], ...] }]).
import { el, short, svg } from "./dom.js";

const [WIDE, HIGH, LEFT, BOTTOM, TOP, RIGHT] = [320, 170, 52, 20, 10, 8];

export function chart(title, lines) {
  const shown = lines.filter((l) => l.points.length);
  const xs = shown.flatMap((l) => l.points.map((p) => p[0]));
  const ys = shown.flatMap((l) => l.points.map((p) => p[1]));
  const [x0, x1] = bounds(xs);
  let [y0, y1] = bounds(ys);
  if (y0 === y1) [y0, y1] = [y0 - 0.5, y1 + 0.5];
  const x = (v) => LEFT + ((v - x0) / (x1 - x0 || 1)) * (WIDE - LEFT - RIGHT);
  const y = (v) => HIGH - BOTTOM - ((v - y0) / (y1 - y0)) * (HIGH - BOTTOM - TOP);
  const label = (v) => svg("text", { x: LEFT - 5, y: y(v) + 4, "text-anchor": "end" }, short(v));
  const rule = (v) => svg("path", { d: `M${LEFT} ${y(v)}H${WIDE - RIGHT}`, class: "rule" });
  const curve = (l, i) => svg("path", { class: `line line-${i}`, d: l.points.map(([a, b], k) =>
    `${k ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("") });
  const cursor = svg("path", { class: "cursor" });
  const readout = el("output", { class: "readout" });
  const last = (l) => short(l.points[l.points.length - 1][1]);
  const picture = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", tabindex: "0",
    "aria-label": `${title}: ${shown.map((l) =>
      `${l.name} from ${short(l.points[0][1])} to ${last(l)}`).join(", ")}` },
  rule(y0), rule(y1), label(y0), label(y1),
  svg("text", { x: LEFT, y: HIGH - 5 }, short(x0)),
  svg("text", { x: WIDE - RIGHT, y: HIGH - 5, "text-anchor": "end" }, `step ${short(x1)}`),
  cursor, ...shown.map(curve));

  const steps = [...new Set(xs)].sort((a, b) => a - b);
  let here = steps.length - 1;
  function point(index) {
    here = Math.max(0, Math.min(steps.length - 1, index));
    const step = steps[here];
    cursor.setAttribute("d", `M${x(step)} ${TOP}V${HIGH - BOTTOM}`);
    readout.textContent = `step ${short(step)}: ` + shown.map((l) =>
      `${l.name ? `${l.name} ` : ""}${short(nearest(l.points, step)[1])}`).join(", ");
  }
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width * WIDE - LEFT) / (WIDE - LEFT - RIGHT);
    const wanted = x0 + at * (x1 - x0);
    point(steps.reduce((best, s, i) =>
      Math.abs(s - wanted) < Math.abs(steps[best] - wanted) ? i : best, 0));
  });
  picture.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    point(here + by);
  });
  const clear = () => { cursor.removeAttribute("d"); readout.textContent = ""; };
  picture.addEventListener("pointerleave", clear);
  picture.addEventListener("blur", clear);
  const key = lines.length > 1 ? lines.map((l, i) =>
    el("span", { class: `key key-${i}` }, l.name)) : [];
  return el("figure", {}, picture, el("figcaption", {}, el("span", {}, title), key, readout));
}

function bounds(values) {
  return values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)],
    [Infinity, -Infinity]);
}

function nearest(points, step) {
  return points.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
}
