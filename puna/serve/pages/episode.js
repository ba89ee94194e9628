// One episode: what was said, what it was worth and why, its tokens, what it changed.
import { changes } from "./changes.js";
import { el, plain, short, tone } from "./dom.js";
import { transcript } from "./message.js";
import { tokens } from "./tokens.js";

export function episode(e) {
  const worth = typeof e.value === "number" ? ` ${short(e.value)}` : "";
  return [el("p", { class: "verdict" }, el("strong", {}, plain(e.task)), " ",
    el("span", { class: tone(e.outcome) }, e.outcome, worth)),
  ...Object.entries(e.outcomes).flatMap(([role, o]) => judged(role, o)),
  facts(e), ...transcript(e.messages), ...changes(e.changes),
  el("h2", {}, "Tokens"), ...tokens(e.tokens, e.tokens_lost)];
}

// Parts of a reward as bars: a full one is the largest of them, or 1.
function judged(role, outcome) {
  const parts = Object.entries(outcome.parts ?? {}).filter(([, v]) => typeof v === "number");
  const most = Math.max(1, ...parts.map(([, v]) => Math.abs(v)));
  const why = outcome.evidence || outcome.reason || outcome.error || "";
  const bars = parts.map(([name, value]) => [el("dt", {}, plain(name)), el("dd", {},
    el("meter", { min: 0, max: most, value: Math.abs(value), class: value < 0 ? "negative" : null,
      "aria-label": name }), ` ${short(value)}`)]);
  return [el("dl", { class: "parts" }, el("dt", {}, plain(role)), el("dd", {},
    typeof outcome.value === "number" ? short(outcome.value) : outcome.kind), bars),
  why ? el("p", { class: "why" }, plain(why)) : null].filter(Boolean);
}

function facts(e) {
  const told = [["ended", e.ended], ...Object.entries(e.tags), ...Object.entries(e.usage)]
    .filter(([, value]) => value !== "" && value !== null);
  return el("p", { class: "soft small" }, plain(told.map(([k, v]) =>
    `${k.replaceAll("_", " ")} ${typeof v === "object" ? JSON.stringify(v) : v}`).join(" · ")));
}
