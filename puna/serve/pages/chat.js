// The chat page: one conversation with a model, or with two side by side.
import { call, el, error, get, whyNot } from "./dom.js";

const at = (id) => document.getElementById(id);
const talk = at("talk");
const state = { histories: new Map(), stop: null };

function option(name) {
  return el("option", { value: name }, name || "nothing");
}

async function open() {
  try {
    const [models, examples] = await Promise.all(
      [get("/v1/models"), get("/api/examples").catch(() => null)]);
    const names = models.data.map((m) => m.id);
    at("model").replaceChildren(...names.map(option));
    at("beside").replaceChildren(option(""), ...names.map(option));
    state.examples = examples;
    fresh();
  } catch (problem) {
    talk.replaceChildren(error(problem));
  }
}

function fresh() {
  state.stop?.abort();
  state.histories.clear();
  const about = state.examples?.about || "Nothing is recorded about what this model can do.";
  const chips = (state.examples?.prompts ?? []).map((text) =>
    el("button", { type: "button", onclick: () => say(text) }, text));
  talk.replaceChildren(el("p", { class: "soft" }, about), el("div", { class: "chips" }, chips));
  at("text").focus();
}

async function say(text) {
  await ready;  // what is sent while the page opens is not lost
  if (state.stop || !text.trim()) return;
  const names = [...new Set([at("model").value, at("beside").value].filter(Boolean))];
  talk.append(el("div", { class: "turn user" }, el("div", { class: "said" }, text)));
  const boxes = names.map((name) => {
    const box = el("div", { class: "said", "data-model": name });
    return { name, box, whole: el("div", {}, el("div", { class: "who" }, name), box) };
  });
  talk.append(el("div", { class: "turn" }, el("div", { class: "answers" },
    boxes.map((b) => b.whole))));
  talk.scrollTop = talk.scrollHeight;
  state.stop = new AbortController();
  at("send").textContent = "Stop";
  await Promise.all(boxes.map((b) => answer(b.name, text, b.box, state.stop.signal)));
  state.stop = null;
  at("send").textContent = "Send";
}

async function answer(name, text, box, signal) {
  const history = state.histories.get(name) ?? [];
  const messages = [...history, { role: "user", content: text }];
  const said = { role: "assistant", content: "" };
  const spoken = el("span");
  box.append(spoken);
  const body = {
    model: name, messages, stream: true,
    temperature: Number(at("temperature").value) || 0,
    max_tokens: Number(at("tokens").value) || 64,
  };
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST", signal, headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    if (!response.ok) throw new Error(await whyNot(response));
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      const delta = event.choices[0]?.delta ?? {};
      said.content += delta.content ?? "";
      spoken.textContent = said.content;
      for (const c of delta.tool_calls ?? []) {
        (said.tool_calls ??= []).push(c);
        box.append(call(c.function.name, c.function.arguments));
      }
      if (event.choices[0]?.finish_reason === "length")
        box.append(el("span", { class: "soft small" }, " … cut at the token limit"));
      talk.scrollTop = talk.scrollHeight;
    }
    if (!said.content && !said.tool_calls) box.append(el("span", { class: "soft" }, "(nothing)"));
    state.histories.set(name, [...messages, said]);
  } catch (problem) {
    if (problem.name === "AbortError") box.append(el("span", { class: "soft small" }, " stopped"));
    else box.append(error(problem));
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (state.stop) return state.stop.abort();
  const text = at("text").value;
  at("text").value = "";
  say(text);
});
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
});
at("fresh").addEventListener("click", fresh);
for (const id of ["model", "beside"]) at(id).addEventListener("change", fresh);
const ready = open();
