// Images to send with the next message: chosen, pasted or dropped, shown small, kept as data: URLs.
import { button, el, error } from "./dom.js";

const KINDS = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const MOST = 5_000_000;  // bytes in all: a request above 8 MB is refused, and base64 is longer

export class Images {
  constructor(list, input, target) {
    this.list = list;
    this.kept = [];
    input.addEventListener("change", () => {
      this.take(input.files);
      input.value = "";
    });
    target.addEventListener("paste", (event) => {
      if (!event.clipboardData.files.length) return;
      event.preventDefault();
      this.take(event.clipboardData.files);
    });
    for (const name of ["dragover", "drop"]) target.addEventListener(name, (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();  // else the browser leaves the page for the file
      if (name === "drop") this.take(event.dataTransfer.files);
    });
  }

  async take(files) {
    const problems = [];
    for (const file of [...files]) {  // the list itself is emptied meanwhile
      const size = this.kept.reduce((sum, i) => sum + i.size, file.size);
      if (!KINDS.includes(file.type)) problems.push(`${file.name}: not a PNG, JPEG, WebP or GIF`);
      else if (size > MOST) problems.push(`${file.name}: more than 5 MB of images in one message`);
      else this.kept.push({ name: file.name, size: file.size, url: await read(file) });
    }
    this.show(problems);
  }

  // What is kept, which is then forgotten here.
  give() {
    const given = this.kept;
    this.kept = [];
    this.show([]);
    return given;
  }

  show(problems) {
    const remove = (image) => {
      this.kept = this.kept.filter((i) => i !== image);
      this.show([]);
    };
    this.list.replaceChildren(...this.kept.map((i) => el("span", { class: "thumb" }, thumb(i),
      button("×", () => remove(i), { "aria-label": `Remove ${i.name}` }))),
    ...problems.map(error));
  }
}

export function thumb(image) {
  return el("img", { src: image.url, alt: image.name });
}

function read(file) {
  return new Promise((done, fail) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => fail(reader.error);
    reader.readAsDataURL(file);
  });
}
