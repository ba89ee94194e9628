// One answer of a model, as it comes: for await (const choice of answer(body, signal)) ...
import { whyNot } from "./dom.js";

export async function* answer(body, signal) {
  const response = await fetch("/v1/chat/completions", {
    method: "POST", signal, headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
  });
  if (!response.ok) throw new Error(await whyNot(response));
  for await (const event of events(response.body)) {
    if (event.error) throw new Error(event.error.message);
    const choice = event.choices?.[0];
    if (choice) yield { delta: choice.delta ?? {}, finish: choice.finish_reason };
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Error("the answer broke off: is puna serve still running?");
      rest.push(value);
      if (!value.includes("\n")) continue;
      const lines = rest.join("").split("\n");
      rest = [lines.pop()];
      for (const line of lines.filter((l) => l.startsWith("data:"))) {
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Calls come whole, or name first and arguments bit by bit.
export function addCalls(calls, deltas) {
  for (const { index = calls.length, id, function: part = {} } of deltas) {
    const known = calls[index] ??= { id: id ?? "", type: "function",
      function: { name: "", arguments: "" } };
    known.function.name += part.name ?? "";
    known.function.arguments += part.arguments ?? "";
  }
}
