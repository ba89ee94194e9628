// The episodes of a journal: a list that is filtered and read on, and the one that is chosen.
import { button, el, error, get, plain, short, tone } from "./dom.js";
import { episode } from "./episode.js";
import { api, hash, title } from "./place.js";

const PAUSE = 250;  // milliseconds after a key before it is looked for

export async function episodes(name, file, n) {
  const list = el("ol", { class: "list" }), spot = el("div", { class: "episode" });
  const note = el("p", { class: "soft small", role: "status" });
  const more = button("more", () => fill(false));
  const outcome = el("select", { "aria-label": "Outcome" });
  const number = (label) => el("input", { type: "number", step: "any", placeholder: label,
    "aria-label": label });
  const least = number("least value"), most = number("most value");
  const text = el("input", { type: "search", placeholder: "text", "aria-label": "Text" });
  let next = 0, asked = 0, read = 0, timer = 0;

  const query = () => Object.fromEntries(Object.entries({ file, outcome: outcome.value,
    least: least.value, most: most.value, text: text.value, start: next })
    .filter(([, value]) => value !== ""));

  // A page of the list; a large file is read in several requests, and what is there is shown.
  async function fill(anew) {
    const mine = ++asked;
    if (anew) { list.replaceChildren(); next = 0; }
    const before = list.children.length;
    more.disabled = true;
    try {
      for (;;) {
        const got = await get(api(name, "/episodes"), query());
        if (mine !== asked) return;  // another filter was set meanwhile
        next = got.next ?? 0;
        options(got.counts);
        list.append(...got.episodes.map(line));
        more.hidden = got.next === null;
        const seen = list.children.length;
        tell(got, seen);
        if (got.next === null || seen - before >= 50) break;
        if (anew && seen && !spot.children.length) break;
      }
      readOn(mine);
    } catch (problem) {
      note.replaceChildren(error(problem));
    } finally {
      if (mine === asked) more.disabled = false;
    }
  }

  // The rest of a large file, for its counts, as long as the page is looked at.
  async function readOn(mine) {
    try {
      for (let whole = false; !whole && mine === asked && list.isConnected;) {
        const got = await get(api(name, "/episodes"), { ...query(), text: "", limit: 1 });
        if (mine !== asked) return;
        whole = got.read === 1;
        options(got.counts);
        if (!text.value) tell(got, list.children.length);
      }
    } catch (problem) {
      note.replaceChildren(error(problem));
    }
  }

  function tell(got, seen) {
    const told = [got.total === null ? `${seen} found` : `${seen} of ${got.total}`];
    if (got.read < 1) told.push(`${Math.floor(100 * got.read)} % of the file read`);
    if (got.broken) told.push(`${got.broken} lines could not be read`);
    note.textContent = told.join(" · ");
  }

  function options(counts) {
    const all = Object.values(counts).reduce((a, b) => a + b, 0);
    for (const [name, n] of [["", all], ...Object.entries(counts)]) {
      const known = [...outcome.options].find((o) => o.value === name);
      const told = `${name || "all"} (${n})`;
      if (known) known.textContent = told;
      else outcome.append(el("option", { value: name }, told));
    }
  }

  function line(e) {
    const worth = typeof e.value === "number" ? short(e.value) : e.outcome;
    return el("li", {}, button([
      el("span", {}, plain(e.step ? `step ${e.step} · ${e.task}` : e.task)),
      el("span", { class: `badge ${tone(e.outcome)}` }, worth)].flat(),
    () => choose(e.n), { "data-n": e.n }));
  }

  async function choose(wanted) {
    const mine = ++read;
    history.replaceState(null, "", hash("run", name, file, String(wanted)));
    for (const b of list.querySelectorAll("button"))
      b.toggleAttribute("aria-current", b.dataset.n === String(wanted));
    let made;
    try {
      made = episode(await get(api(name, "/episode"), { file, n: wanted }));
    } catch (problem) {
      made = [error(problem)];
    }
    if (mine === read) spot.replaceChildren(...made);
  }

  async function again() {
    await fill(true);
    const first = list.querySelector("button");
    if (first) await choose(Number(first.dataset.n));
    else spot.replaceChildren(el("p", { class: "soft" }, "no episode is like that"));
  }

  outcome.addEventListener("change", again);
  for (const field of [least, most, text]) field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(again, PAUSE);
  });
  list.addEventListener("keydown", (event) => {
    const to = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const other = to && event.target.closest("li")?.[to]?.querySelector("button");
    if (!other) return;
    event.preventDefault();
    other.focus();
    other.click();
  });
  await fill(true);
  if (list.children.length) await choose(Number(n) || 0);
  else spot.append(el("p", { class: "soft" }, "no episodes yet"));
  setTimeout(() => readOn(asked), PAUSE);  // once it is shown
  return [el("p", { class: "small" }, el("a", { href: hash("run", name) }, plain(name))),
    el("h1", {}, plain(title(file))),
    el("div", { class: "split" }, el("div", {}, el("div", { class: "filters" }, outcome, text,
      least, most), list, more, note), spot)];
}
