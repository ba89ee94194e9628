// An answer while it grows: new Flow(box), add(text), end(). Blocks that are complete stay as they
// are; only the last one is made anew, and a very long one only grows at its end.
import { el, plain } from "./dom.js";
import { blocks, closes, fence, pieces } from "./markdown.js";

const LONG = 20000;
const PAUSE = 40;  // milliseconds between two looks at what has come

export class Flow {
  constructor(box) {
    this.box = box;
    this.tail = el("div", { class: "tail" });
    box.append(this.tail);
    this.came = [];  // not looked at yet
    this.rest = "";  // of the last block
    this.at = 0;  // of `rest`: where its first unfinished line begins
    this.mark = "";  // of the code block that is open
    this.grown = null;  // where a long block grows
    this.timer = 0;
  }

  add(text) {
    this.came.push(text);
    this.timer ||= setTimeout(() => this.look(), PAUSE);
  }

  end() {
    this.look();
    if (this.rest) this.close(this.rest.length);
    this.tail.remove();
  }

  look() {
    clearTimeout(this.timer);
    this.timer = 0;
    const news = this.came.join("");
    this.came = [];
    this.rest += news;
    for (let end; (end = this.rest.indexOf("\n", this.at)) >= 0;) this.line(this.at, end);
    if (this.rest.length > LONG) this.grow(news);
    else this.tail.replaceChildren(...blocks(this.rest));
    this.box.dispatchEvent(new Event("grown", { bubbles: true }));
  }

  // Line by line: what ends a block closes it.
  line(start, end) {
    const line = this.rest.slice(start, end), opens = this.mark ? null : fence(line);
    this.at = end + 1;
    if (this.mark) {
      if (!closes(line, this.mark)) return;
      this.mark = "";
      this.close(this.at);
    } else if (opens) {
      this.mark = opens[1];
      this.close(start);
    } else if (!line.trim()) this.close(this.at);
  }

  close(end) {
    const whole = this.rest.slice(0, end);
    const long = end > LONG && !fence(whole.slice(0, whole.indexOf("\n")));
    const made = long ? pieces(whole).map(piece) : blocks(whole);
    this.tail.before(...made);
    this.tail.replaceChildren();
    this.grown = null;
    this.rest = this.rest.slice(end);
    this.at -= end;
  }

  grow(news) {
    if (!this.grown) this.tail.replaceChildren();
    for (const text of pieces(this.grown ? news : this.rest)) {
      if (this.grown && this.grown.textContent.length + text.length < LONG)
        this.grown.append(...plain(text));
      else this.tail.append(this.grown = piece(text));
    }
  }
}

function piece(text) {
  return el("div", { class: "piece" }, plain(text));
}
