// Tokens coloured by how probable each was when it was drawn; the value under the pointer is told.
import { button, el, plain, short } from "./dom.js";

const LEVELS = [0.9, 0.5, 0.2, 0.05, 0.01, 0];
const PAGE = 4000;  // tokens shown at once

export function tokens(byRole, lost) {
  if (lost) return [el("p", { class: "soft" }, lost)];
  const readout = el("output", { class: "readout" }, "point at a token");
  const level = (t, i) => el("span", { class: `token p${i}` },
    t ? `${i ? "" : "p "}≥ ${t}` : `< ${LEVELS[i - 1]}`);
  const key = el("p", { class: "small legend" }, ...LEVELS.map(level), " ", readout);
  const out = [key];
  for (const [role, branches] of Object.entries(byRole))
    branches.forEach((branch, i) => {
      const name = branches.length > 1 ? `${role}, branch ${i + 1}` : role;
      out.push(el("div", { class: "who" }, plain(name)), paged(branch, readout));
    });
  return out;
}

function paged(branch, readout) {
  const box = el("div", { class: "tokens", dir: "ltr" });
  const tell = (event) => {
    const found = event.target.closest(".token");
    if (found) readout.textContent = found.title;
  };
  box.addEventListener("pointerover", tell);
  box.addEventListener("pointerdown", tell);
  const fill = (from) => {
    box.append(...branch.slice(from, from + PAGE).map(token));
    const left = branch.length - from - PAGE;
    if (left > 0) {
      const on = button(`${left.toLocaleString()} more`, () => { on.remove(); fill(from + PAGE); });
      box.append(on);
    }
  };
  fill(0);
  return box;
}

function token([text, logprob], i) {
  const shown = text === "" ? "·" : text;
  if (logprob === null) return el("span", { class: "token given", title: `token ${i + 1}: given` },
    plain(shown));
  const p = Math.exp(logprob);
  const level = LEVELS.findIndex((l) => p >= l);
  const title = `token ${i + 1}: p = ${p >= 0.01 ? p.toFixed(3) : p.toExponential(1)}, `
    + `log p = ${short(logprob)}`;
  return el("span", { class: `token p${level}`, title }, plain(shown));
}
