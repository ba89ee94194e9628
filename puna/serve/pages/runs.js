// The viewer. The place is in the address: #run/NAME, #run/NAME/FILE/N, #compare/A/B, #audits.
import { audit, audits, ofStage } from "./audits.js";
import { compare } from "./compare.js";
import { el, error } from "./dom.js";
import { episodes } from "./episodes.js";
import { run } from "./run.js";
import { shelf } from "./shelf.js";

const page = document.getElementById("page");
let asked = 0;

function place([what, ...names]) {
  if (what === "run" && names[1] === "audit") return ofStage(names[0], names[2]);
  if (what === "run" && names[1]) return episodes(...names);
  if (what === "run" && names[0]) return run(names[0]);
  if (what === "compare") return compare(...names);
  if (what === "audits") return names[0] ? audit(names[0]) : audits();
  return shelf();
}

async function show() {
  const mine = ++asked;
  page.setAttribute("aria-busy", "true");
  if (!page.children.length) page.replaceChildren(el("p", { class: "soft" }, "reading …"));
  let made;
  try {
    made = await place(location.hash.slice(1).split("/").map(decodeURIComponent));
  } catch (problem) {
    made = [error(problem), el("p", {}, el("a", { href: "#" }, "all runs"))];
  }
  if (mine !== asked) return;  // another place was asked for meanwhile
  page.removeAttribute("aria-busy");
  page.replaceChildren(...made);
  const under = location.hash.startsWith("#audits") ? "audits" : "runs";
  for (const link of document.querySelectorAll("header nav a"))
    link.toggleAttribute("aria-current", link.dataset.of === under);
  scrollTo(0, 0);
  const head = page.querySelector("h1");
  document.title = `Puna: ${head?.textContent ?? "runs"}`;
  head?.setAttribute("tabindex", "-1");
  if (mine > 1) head?.focus({ preventScroll: true });
}

addEventListener("hashchange", show);
show();
