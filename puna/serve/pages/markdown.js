// Markdown as elements: blocks("# Title\n\ntext"). Only text nodes carry what a model wrote; HTML
// in it is text, images are not loaded, and a link leads somewhere only where it is http(s).
import { el, plain } from "./dom.js";

const DEEP = 6;  // lists in lists, bold in links: beyond, text stays as it is
const LONG = 20000;  // characters of a block that is looked into

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+)(\S.*)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const BARS = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

export function fence(line) {
  return FENCE.exec(line);
}

export function closes(line, mark) {
  const bare = line.trim();
  return bare.length >= mark.length && bare === mark[0].repeat(bare.length);
}

export function blocks(text, depth = 0) {
  const lines = text.split("\n"), out = [];
  for (let i = 0; i < lines.length;) {
    if (!lines[i].trim()) { i++; continue; }
    const [made, next] = block(lines, i, depth);
    out.push(made);
    i = next;
  }
  return out;
}

// The block that begins at line i, and the line after it.
function block(lines, i, depth) {
  const line = lines[i], open = fence(line);
  if (open) return code(lines, i, open);
  if (RULE.test(line)) return [el("hr"), i + 1];
  const heading = HEADING.exec(line);
  if (heading) return [el(`h${Math.min(6, heading[1].length + 2)}`, { dir: "auto" },
    inline(heading[2])), i + 1];
  if (line.startsWith(">") && depth < DEEP) return quote(lines, i, depth);
  if (ITEM.test(line) && depth < DEEP) return list(lines, i, depth);
  if (line.includes("|") && BARS.test(lines[i + 1] ?? "") && lines[i + 1].includes("-"))
    return table(lines, i);
  let end = i + 1;
  while (end < lines.length && lines[end].trim() && !begins(lines[end])) end++;
  return [el("p", { dir: "auto" }, inline(lines.slice(i, end).join("\n"))), end];
}

function begins(line) {
  return fence(line) || RULE.test(line) || HEADING.test(line) || line.startsWith(">")
    || ITEM.test(line);
}

function code(lines, i, [, mark, language]) {
  let end = i + 1;
  while (end < lines.length && !closes(lines[end], mark)) end++;
  return [pre(lines.slice(i + 1, end).join("\n"), language.trim()), end + 1];
}

export function pre(text, language = "") {
  const label = language ? el("div", { class: "language" }, plain(language.slice(0, 40))) : null;
  return el("div", { class: "code", dir: "ltr" }, label,
    el("pre", { tabindex: "0" }, pieces(text).map((t) => el("code", {}, plain(t)))));
}

function quote(lines, i, depth) {
  let end = i;
  while (end < lines.length && lines[end].startsWith(">")) end++;
  const inner = lines.slice(i, end).map((l) => l.replace(/^> ?/, "")).join("\n");
  return [el("blockquote", {}, blocks(inner, depth + 1)), end];
}

function list(lines, i, depth) {
  const [, , mark] = ITEM.exec(lines[i]), numbered = /\d/.test(mark), items = [];
  let end = i;
  while (end < lines.length) {
    const found = ITEM.exec(lines[end]);
    if (!found || /\d/.test(found[2]) !== numbered) break;
    const indent = found[1].length, inner = [found[4]];
    for (end++; end < lines.length && lines[end].trim(); end++) {
      const deeper = lines[end].length - lines[end].trimStart().length > indent;
      if (!deeper && begins(lines[end])) break;
      inner.push(deeper ? lines[end].slice(Math.min(indent + mark.length + 1,
        lines[end].length - lines[end].trimStart().length)) : lines[end]);
    }
    items.push(el("li", { dir: "auto" }, tight(inner.join("\n"), depth + 1)));
  }
  const start = numbered ? { start: parseInt(mark, 10) } : {};
  return [el(numbered ? "ol" : "ul", start, items), end];
}

// An item of a single paragraph has no paragraph of its own.
function tight(text, depth) {
  const made = blocks(text, depth);
  return made[0]?.tagName === "P" ? [...made[0].childNodes, ...made.slice(1)] : made;
}

function cells(line) {
  const bare = line.trim().replace(/^\||(?<!\\)\|$/g, "");
  return bare.split(/(?<!\\)\|/).map((c) => c.trim().replaceAll("\\|", "|"));
}

function table(lines, i) {
  const head = cells(lines[i]), rows = [];
  let end = i + 2;
  for (; end < lines.length && lines[end].includes("|") && lines[end].trim(); end++)
    rows.push(cells(lines[end]).slice(0, head.length));
  const made = el("table", {},
    el("thead", {}, el("tr", {}, head.map((c) => el("th", { scope: "col" }, inline(c))))),
    el("tbody", {}, rows.map((r) => el("tr", {}, r.map((c) => el("td", {}, inline(c)))))));
  return [el("div", { class: "scroll", tabindex: "0" }, made), end];
}

const SPECIAL = /[\\`*_~[!h]/g;
const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "s"], ["*", "em"], ["_", "em"]];

// `links` is false within the label of one: a link holds no other.
export function inline(text, depth = 0, links = true) {
  if (text.length > LONG || depth > DEEP) return plain(text);
  const out = [];
  let from = 0, i = 0;
  const take = (end, nodes) => {
    if (i > from) out.push(...plain(text.slice(from, i)));
    out.push(...nodes);
    from = i = end;
  };
  while (i < text.length) {
    SPECIAL.lastIndex = i;
    const next = SPECIAL.exec(text);
    if (!next) break;
    i = next.index;
    const found = span(text, i, depth, links);
    if (found) take(found.end, found.nodes);
    else i++;
  }
  if (from < text.length) out.push(...plain(text.slice(from)));
  return out;
}

// What begins at i: its nodes and where it ends; null where it is plain text.
function span(text, i, depth, links) {
  const c = text[i];
  if (c === "\\" && /[\\`*_~[\]()!#|>-]/.test(text[i + 1] ?? ""))
    return { nodes: [text[i + 1]], end: i + 2 };
  if (c === "`") return ticks(text, i);
  if (c === "[" || (c === "!" && text[i + 1] === "["))
    return links ? linked(text, i, depth) : null;
  if (c === "h") return links ? bare(text, i) : null;
  for (const [mark, tag] of MARKS) {
    if (!text.startsWith(mark, i) || /[\s]/.test(text[i + mark.length] ?? " ")) continue;
    if (mark[0] === "_" && /\w/.test(text[i - 1] ?? "")) continue;
    const end = text.indexOf(mark, i + mark.length + 1);
    if (end < 0 || /\s/.test(text[end - 1])) continue;
    if (mark[0] === "_" && /\w/.test(text[end + mark.length] ?? "")) continue;
    const inner = inline(text.slice(i + mark.length, end), depth + 1, links);
    return { nodes: [el(tag, {}, inner)], end: end + mark.length };
  }
  return null;
}

function ticks(text, i) {
  const mark = /^`+/.exec(text.slice(i, i + 100))[0];
  const end = text.indexOf(mark, i + mark.length);
  if (end < 0) return { nodes: [mark], end: i + mark.length };
  return { nodes: [el("code", {}, plain(text.slice(i + mark.length, end).trim()))],
    end: end + mark.length };
}

function linked(text, i, depth) {
  const begin = text.indexOf("[", i), middle = text.indexOf("](", begin);
  const end = middle < 0 || middle - begin > 2000 ? -1 : text.indexOf(")", middle);
  if (end < 0 || end - middle > 4000) return null;
  const label = text.slice(begin + 1, middle);
  const [address] = text.slice(middle + 2, end).split(/\s+"/);
  const shown = text[i] === "!" ? plain(`image: ${label}`) : inline(label, depth + 1, false);
  return { nodes: [anchor(address.trim(), shown)], end: end + 1 };
}

function bare(text, i) {
  const found = /^https?:\/\/[^\s<>"'`\\]{1,2000}/.exec(text.slice(i, i + 2020));
  if (!found || /\w/.test(text[i - 1] ?? "")) return null;
  const address = found[0].replace(/[.,;:!?)\]*_~]+$/, "");
  return { nodes: [anchor(address, plain(address))], end: i + address.length };
}

// The address stands beside a label that is another one, so that none can pose as it.
function anchor(address, label) {
  let url = null;
  try {
    url = new URL(address);
  } catch { /* it leads nowhere */ }
  const shown = label.map((n) => n.textContent ?? n).join("") === address ? null
    : el("span", { class: "soft small" }, " (", plain(url?.host || address.slice(0, 80)), ")");
  if (!url || !["http:", "https:"].includes(url.protocol))
    return el("span", { class: "inert" }, label, shown);
  return el("span", {}, el("a", { href: url.href, rel: "noopener noreferrer nofollow",
    target: "_blank", title: url.href }, label), shown);
}

// A long text in pieces, so that the browser lays out again only what changes.
export function pieces(text) {
  const out = [];
  for (let from = 0; from < text.length;) {
    if (text.length - from <= LONG) return [...out, text.slice(from)];
    const line = text.indexOf("\n", from + LONG / 2) + 1;
    const end = line > 0 && line - from <= LONG ? line : from + LONG;
    out.push(text.slice(from, end));
    from = end;
  }
  return out;
}
