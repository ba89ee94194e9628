// A node of the conversation as an element: view(node, acts).box; view(node, acts).refresh().
import { button, el, plain } from "./dom.js";
import { thumb } from "./images.js";

const made = new WeakMap();

export function view(node, acts) {
  if (!made.has(node)) {
    const shown = { asked, answers, results }[node.kind](node, acts);
    const versions = el("span", { class: "versions" });
    shown.bar.append(versions);
    made.set(node, { ...shown, refresh: () => {
      versions.replaceChildren(...which(node, acts));
      shown.box.hidden = node.kind === "results" && !versions.children.length;
    } });
  }
  return made.get(node);
}

// "‹ 2 / 3 ›" where there are several.
function which(node, acts) {
  const all = node.parent.children, at = all.indexOf(node);
  if (all.length < 2) return [];
  const step = (by, text, label) => button(text, () => acts.choose(node.parent, at + by),
    { "aria-label": label, disabled: !all[at + by] });
  return [step(-1, "‹", "Earlier version"), el("span", {}, `${at + 1} / ${all.length}`),
    step(1, "›", "Later version")];
}

function asked(node, acts) {
  const said = el("div", { class: "said", dir: "auto" }, plain(node.text));
  const thumbs = el("div", { class: "thumbs" }, node.images.map(thumb));
  const bar = el("div", { class: "acts" }, button("Edit", () => edit()));
  const box = el("div", { class: "turn user" }, thumbs, said, bar);

  function edit() {
    const text = el("textarea", { "aria-label": "Edit your message", rows: "3" });
    text.value = node.text;
    const form = el("form", { class: "edit" }, text,
      el("button", { type: "submit", class: "main" }, "Send"), button("Cancel", back));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      back();
      acts.edit(node, text.value);
    });
    text.addEventListener("keydown", (event) => {
      if (event.key === "Escape") back();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    function back() {
      form.replaceWith(said);
      bar.hidden = false;
      acts.focus();
    }
    said.replaceWith(form);
    bar.hidden = true;
    text.focus();
  }
  return { box, bar, edit };
}

function answers(node, acts) {
  const boxes = new Map([...node.said.keys()].map((name) =>
    [name, el("div", { class: "said", "data-model": name })]));
  const columns = [...boxes].map(([name, box]) =>
    el("div", {}, el("div", { class: "who" }, plain(name)), box));
  const bar = el("div", { class: "acts" }, button("Regenerate", () => acts.regenerate(node)));
  const box = el("div", { class: "turn model" }, el("div", { class: "answers" }, columns), bar);
  return { box, bar, boxes };
}

// The results themselves stand within their calls; this is for the way to other versions.
function results(node) {
  const bar = el("div", { class: "acts" }, el("span", {}, "results given"));
  return { box: el("div", { class: "turn" }, bar), bar };
}

// Where a model called tools, whoever talks to it says what they gave; with the last it goes on.
export function askResults(node, acts) {
  const [said, ...others] = node.said.values();
  if (others.length) return;
  const given = new Map();
  said.calls.forEach((c, i) => {
    const text = el("textarea", { rows: "2", "aria-label": `Result of ${c.function.name}` });
    const give = el("button", { type: "submit" }, "Give result");
    const form = el("form", { class: "edit" }, text, give);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      given.set(i, text.value);
      said.blocks[i].answer(text.value);
      form.remove();
      if (given.size === said.calls.length)
        acts.results(node, said.calls.map((one, k) =>
          ({ role: "tool", tool_call_id: one.id, content: given.get(k) })));
    });
    said.blocks[i].box.append(form);
  });
}
