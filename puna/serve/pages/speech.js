// What one model answers, into its box as it comes: await speak(said, box, body, signal).
import { el, error } from "./dom.js";
import { Flow } from "./flow.js";
import { call, thought } from "./message.js";
import { addCalls, answer } from "./stream.js";

export function nothing() {
  return { content: "", reasoning: "", calls: [], failed: false, blocks: [] };
}

export async function speak(said, box, body, signal) {
  const content = [], flow = new Flow(box);
  let thinking = null, note = "";
  try {
    for await (const { delta, finish } of answer(body, signal)) {
      if (delta.reasoning_content) thinking = think(said, thinking, box, delta.reasoning_content);
      if (delta.content) {
        content.push(delta.content);
        flow.add(delta.content);
      }
      addCalls(said.calls, delta.tool_calls ?? []);
      if (finish === "length") note = "cut at the token limit";
    }
  } catch (problem) {
    if (problem.name === "AbortError") note = "stopped";
    else {
      said.failed = true;
      box.append(error(problem));
    }
  }
  flow.end();
  said.content = content.join("");
  said.blocks = said.calls.map((c) => call(c.function.name, c.function.arguments));
  box.append(...said.blocks.map((b) => b.box));
  if (!said.content && !said.calls.length && !said.failed && !note) note = "(nothing)";
  if (note) box.append(el("p", { class: "soft small" }, note));
}

function think(said, open, box, text) {
  said.reasoning += text;
  const made = open ?? thought("");
  if (!open) box.prepend(made);
  made.lastChild.append(text);
  return made;
}
