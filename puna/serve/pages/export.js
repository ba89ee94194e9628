// The conversation that is shown, as a file: OpenAI's messages, or Markdown to read.
import { el } from "./dom.js";
import { messages } from "./tree.js";

export function asJson(path, name, system) {
  return JSON.stringify({ model: name, messages: messages(path, name, system) }, null, 1);
}

export function asMarkdown(path, system) {
  const out = system ? [`## System\n\n${system}`] : [];
  for (const node of path) {
    if (node.kind === "asked") {
      const images = node.images.map((i) => `(image: ${i.name})\n\n`).join("");
      out.push(`## User\n\n${images}${node.text}`);
    }
    if (node.kind === "results")
      out.push(...node.messages.map((m) => `## Tool\n\n${fenced(m.content)}`));
    for (const [name, said] of node.said ?? []) {
      const calls = said.calls.map((c) =>
        `\n\n${fenced(`${c.function.name}(${c.function.arguments})`)}`);
      out.push(`## ${name}\n\n${said.content}${calls.join("")}`);
    }
  }
  return out.join("\n\n") + "\n";
}

// A fence longer than any within.
function fenced(text) {
  const longest = (text.match(/`+/g) ?? []).reduce((most, m) => Math.max(most, m.length), 2);
  const mark = "`".repeat(longest + 1);
  return `${mark}\n${text}\n${mark}`;
}

export function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
