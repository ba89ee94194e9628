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
const acts = { edit: attempt(edit), regenerate: attempt(regenerate), results: attempt(results),
  choose, focus: () => text.focus() };
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
    examples.prompts.map((prompt) => button(prompt, attempt(() => say(prompt, []))))));
}

// What a person has to mend is told beside the field, and nothing is sent.
function attempt(act) {
  return async (...given) => {
    at("problem").replaceChildren();
    try {
      await act(...given);
    } catch (problem) {
      at("problem").replaceChildren(error(problem));
    }
  };
}

async function fresh() {
  await stop();
  tree = new Tree();
  show();
  text.focus();
}

// Elements that stay are left where they are, with their focus and what is folded.
function show() {
  const views = tree.path().map((node) => view(node, acts));
  const wanted = [intro, ...views.map((v) => v.box)];
  for (const child of [...talk.children]) if (!wanted.includes(child)) child.remove();
  wanted.forEach((box, i) => talk.children[i] !== box && talk.insertBefore(box, talk.children[i]));
  views.forEach((v) => v.refresh());
}

async function say(words, shown, parent = null) {
  await ready;  // what is sent while the page opens is not lost
  const how = settings();
  await stop();
  tree.add(parent ?? tree.last, { kind: "asked", text: words, images: shown });
  await reply(tree.last, how);
}

async function reply(parent, how) {
  const names = [...new Set([at("model").value, at("beside").value].filter(Boolean))];
  const controller = new AbortController(), system = at("system").value.trim();
  const bodies = names.map((model) =>
    ({ model, messages: messages(before(parent), model, system), ...how }));
  const said = new Map(names.map((name) => [name, nothing()]));
  const node = tree.add(parent, { kind: "answers", said });
  show();
  talk.scrollTop = talk.scrollHeight;
  const boxes = view(node, acts).boxes;
  tell("answering");
  at("send").textContent = "Stop";
  const done = Promise.all(bodies.map((body) =>
    speak(said.get(body.model), boxes.get(body.model), body, controller.signal)));
  running = { done, stop: () => controller.abort() };
  await done;
  running = null;
  askResults(node, acts);
  at("send").textContent = "Send";
  tell(controller.signal.aborted ? "stopped" : "answer complete");
}

// What a request holds besides the conversation. Throws where the tools cannot be read.
function settings() {
  const limit = parseInt(at("tokens").value, 10), tools = at("tools").value.trim();
  const out = { temperature: Number(at("temperature").value) || 0 };
  if (limit > 0) out.max_tokens = limit;
  if (tools) {
    try {
      out.tools = JSON.parse(tools);
    } catch (problem) {
      throw new Error(`the tools are not JSON: ${problem.message}`);
    }
  }
  return out;
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
  const how = settings();
  await stop();
  await reply(node.parent, how);
}

async function results(node, told) {
  const how = settings();
  await stop();
  await reply(tree.add(node, { kind: "results", messages: told }), how);
}

async function choose(parent, index) {
  await stop();
  parent.chosen = index;
  show();
}

function tell(what) {
  at("status").textContent = what;
}

const send = attempt(async () => {
  const words = text.value;
  if (!words.trim() && !images.kept.length) return;
  settings();  // where they are wrong, what was typed stays
  text.value = "";
  fit();
  await say(words, images.give());
});
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) stop();
  else send();
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
