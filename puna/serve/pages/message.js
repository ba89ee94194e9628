// Messages as the library keeps them (a role, a speaker, typed parts), and calls of tools.
import { el, plain } from "./dom.js";

const CLIP = 90;

// A folded block: what is called with what, and what came back. Returns {box, answer(text, bad)}.
export function call(name, given) {
  const brief = el("span", { class: "soft" }), back = el("div", { class: "result" });
  const box = el("details", { class: "call" },
    el("summary", {}, el("code", {}, plain(`${name}(${clip(given)})`)), brief),
    el("pre", {}, plain(pretty(given))), back);
  const answer = (text, bad = false) => {
    brief.replaceChildren(" → ", ...plain(clip(text)));
    brief.className = bad ? "bad" : "soft";
    back.replaceChildren(el("div", { class: "soft small" }, bad ? "error" : "result"),
      el("pre", {}, plain(text)));
  };
  return { box, answer };
}

function clip(text) {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > CLIP ? `${line.slice(0, CLIP)}…` : line;
}

function pretty(given) {
  try {
    return JSON.stringify(JSON.parse(given), null, 1);
  } catch {
    return given;
  }
}

// The messages of an episode, results of calls within their calls.
export function transcript(messages) {
  const open = [];  // calls that have no result yet, oldest first
  return messages.map((m) => {
    const shown = (m.parts ?? []).flatMap((p) => part(p, open));
    if (!shown.length && m.parts?.length) return null;
    const env = m.speaker === undefined || m.speaker === "env";
    const who = env ? m.role : m.speaker;
    return el("div", { class: `turn ${m.role === "assistant" ? "model" : ""}` },
      el("div", { class: "who" }, plain(who ?? "")), el("div", { class: "said" }, shown));
  }).filter(Boolean);
}

function part(p, open) {
  if (p.kind === "text") return [el("span", {}, plain(p.text))];
  if (p.kind === "reasoning") return [thought(p.text)];
  if (p.kind === "tool_call") {
    const made = call(p.name, p.arguments);
    open.push({ id: p.id, ...made });
    return [made.box];
  }
  if (p.kind === "tool_result") {
    const text = (p.parts ?? []).map((q) => q.text ?? `(${q.kind})`).join("\n");
    const at = open.findIndex((c) => c.id === p.id);
    if (at < 0) return [el("pre", { class: "result" }, plain(text))];
    open.splice(at, 1)[0].answer(text, p.is_error);
    return [];
  }
  return [el("span", { class: "soft" }, `(${p.kind})`)];
}

export function thought(text) {
  return el("details", { class: "thought" }, el("summary", {}, "reasoning"),
    el("div", {}, plain(text)));
}
