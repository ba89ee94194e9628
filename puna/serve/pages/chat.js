// The chat page: a conversation with a model, or with two side by side; see tree.js for branches.
// Nothing in the address is ever sent: only what is typed, chosen or clicked here.
import { button, el, error, get } from "./dom.js";
import { asJson, asMarkdown, save } from "./export.js";
import { Images } from "./images.js";
import { nothing, speak } from "./speech.js";
import { Tree, before, messages } from "./tree.js";
import { askResults, view } from "./turns.js";

const at = (id) => document.getElementById(id);
const talk = at("talk"), text = at("text");
const images = new Images(at("thumbs"), at("files"), document.body);
const intro = el("div");
const acts = { edit, regenerate, choose, results, focus: () => text.focus() };
let tree = new Tree(), running = null, examples = null;

function option(name) {
  return el("option", { value: name }, name || "nothing");
}

async function open() {
  try {
    const names = (await get("/v1/models")).data.map((m) => m.id);
    at("model").replaceChildren(...names.map(option));
    at("beside").replaceChildren(option(""), ...names.map(option));
    fresh();
    get("/api/examples").catch(() => null).then((found) => {
      examples = found;
      introduce();
    });
  } catch (problem) {
    talk.replaceChildren(error(problem));
  }
}

function introduce() {
  if (!examples) return;
  const about = examples.about || "Nothing is recorded about what this model can do.";
  intro.replaceChildren(el("p", { class: "soft" }, about), el("div", { class: "chips" },
    examples.prompts.map((prompt) => button(prompt, () => say(prompt, [])))));
}

async function fresh() {
  await stop();
  tree = new Tree();
  show();
  text.focus();
}

// Elements that stay are left where they are, with their focus and what is folded.
function show() {
  const views = tree.path().filter((n) => n.kind !== "results").map((n) => view(n, acts));
  const wanted = [intro, ...views.map((v) => v.box)];
  for (const child of [...talk.children]) if (!wanted.includes(child)) child.remove();
  wanted.forEach((box, i) => talk.children[i] !== box && talk.insertBefore(box, talk.children[i]));
  views.forEach((v) => v.refresh());
}

async function say(words, shown, parent = null) {
  await ready;  // what is sent while the page opens is not lost
  await stop();
  tree.add(parent ?? tree.last, { kind: "asked", text: words, images: shown });
  await reply(tree.last);
}

async function reply(parent) {
  const names = [...new Set([at("model").value, at("beside").value].filter(Boolean))];
  const controller = new AbortController(), path = [...before(parent)];
  let tools;
  try {
    tools = readTools();
  } catch (problem) {
    show();
    talk.append(error(problem));
    return;
  }
  const node = tree.add(parent, { kind: "answers", said: new Map(names.map((n) => [n, nothing()])) });
  show();
  talk.scrollTop = talk.scrollHeight;
  const boxes = view(node, acts).boxes;
  const bodies = names.map((name) => ({ model: name, messages: messages(path, name,
    at("system").value.trim()), ...tools, ...settings() }));
  tell("answering");
  at("send").textContent = "Stop";
  const done = Promise.all(bodies.map((body) =>
    speak(node.said.get(body.model), boxes.get(body.model), body, controller.signal)));
  running = { done, stop: () => controller.abort() };
  await done;
  running = null;
  askResults(node, acts);
  at("send").textContent = "Send";
  tell(controller.signal.aborted ? "stopped" : "answer complete");
}

function settings() {
  const limit = parseInt(at("tokens").value, 10);
  return { temperature: Number(at("temperature").value) || 0,
    ...(limit > 0 ? { max_tokens: limit } : {}) };
}

function readTools() {
  const given = at("tools").value.trim();
  if (!given) return {};
  try {
    return { tools: JSON.parse(given) };
  } catch (problem) {
    at("settings").open = true;
    throw new Error(`the tools are not JSON: ${problem.message}`);
  }
}

async function stop() {
  const now = running;
  now?.stop();
  await now?.done;
}

async function edit(node, words) {
  if (words.trim()) await say(words, node.images, node.parent);
}

async function regenerate(node) {
  await stop();
  await reply(node.parent);
}

async function results(node, told) {
  await stop();
  await reply(tree.add(node, { kind: "results", messages: told }));
}

async function choose(parent, index) {
  await stop();
  parent.chosen = index;
  show();
}

function tell(what) {
  at("status").textContent = what;
}

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (running) return stop();
  const words = text.value;
  if (!words.trim() && !images.kept.length) return;
  text.value = "";
  fit();
  await say(words, images.give());
});
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
  if (event.key === "ArrowUp" && !text.value) {
    const last = tree.path().findLast((n) => n.kind === "asked");
    if (last) {
      event.preventDefault();
      view(last, acts).edit();
    }
  }
});
addEventListener("keydown", (event) => event.key === "Escape" && stop());
talk.addEventListener("grown", () => {
  const below = talk.scrollHeight - talk.scrollTop - talk.clientHeight;
  if (below < 200) talk.scrollTop = talk.scrollHeight;
});
function fit() {
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight + 2, 200)}px`;
}
text.addEventListener("input", fit);
at("attach").addEventListener("click", () => at("files").click());
at("fresh").addEventListener("click", fresh);
at("json").addEventListener("click", () => save("conversation.json", "application/json",
  asJson(tree.path(), at("model").value, at("system").value.trim())));
at("markdown").addEventListener("click", () => save("conversation.md", "text/markdown",
  asMarkdown(tree.path(), at("system").value.trim())));
const ready = open();
