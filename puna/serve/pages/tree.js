// A conversation with its branches. Each node follows its parent; `chosen` says which child is
// shown, so that an edited question or a second answer stands beside the first.

export class Tree {
  constructor() {
    this.root = { kind: "root", parent: null, children: [], chosen: -1 };
  }

  add(parent, node) {
    Object.assign(node, { parent, children: [], chosen: -1 });
    parent.chosen = parent.children.push(node) - 1;
    return node;
  }

  // The nodes that are shown, from the first on.
  path() {
    const out = [];
    for (let node = this.root.children[this.root.chosen]; node; node = node.children[node.chosen])
      out.push(node);
    return out;
  }

  get last() {
    return this.path().at(-1) ?? this.root;
  }
}

export function before(node) {
  const out = [];
  for (let one = node; one.parent; one = one.parent) out.unshift(one);
  return out;
}

// OpenAI's messages along a path, as the model `name` is to see them: its own answers, or where it
// gave none, those of the model that did.
export function messages(path, name, system = "") {
  const out = system ? [{ role: "system", content: system }] : [];
  for (const node of path) {
    if (node.kind === "asked") out.push({ role: "user", content: content(node) });
    if (node.kind === "results") out.push(...node.messages);
    if (node.kind === "answers") {
      const said = node.said.get(name) ?? node.said.values().next().value;
      if (said && !said.failed) out.push(spoken(said));
    }
  }
  return out;
}

function content(node) {
  if (!node.images.length) return node.text;
  const shown = node.images.map((i) => ({ type: "image_url", image_url: { url: i.url } }));
  return [...shown, { type: "text", text: node.text }];
}

function spoken(said) {
  const out = { role: "assistant", content: said.content };
  if (said.reasoning) out.reasoning_content = said.reasoning;
  if (said.calls.length) out.tool_calls = said.calls;
  return out;
}
