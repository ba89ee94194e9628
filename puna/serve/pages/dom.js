// Elements and requests. Text goes in through textContent only: models write it.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return made;
}

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export async function whyNot(response) {
  try {
    const body = await response.json();
    return body.error?.message ?? body.detail ?? `${response.status}`;
  } catch {
    return `the server answered ${response.status}`;
  }
}

export async function get(path, query = {}) {
  const found = new URLSearchParams(query).toString();
  let response;
  try {
    response = await fetch(found ? `${path}?${found}` : path);
  } catch {
    throw new Error("the server does not answer: is puna serve still running?");
  }
  if (!response.ok) throw new Error(await whyNot(response));
  return response.json();
}

export function error(problem) {
  return el("p", { class: "error", role: "alert" }, problem.message ?? String(problem));
}

// A message as the library keeps it: a role, a speaker, typed parts.
export function parts(message) {
  return (message.parts ?? []).map((part) => {
    if (part.kind === "text") return el("span", {}, part.text);
    if (part.kind === "reasoning") return el("span", { class: "thought" }, part.text);
    if (part.kind === "tool_call") return call(part.name, part.arguments);
    if (part.kind === "tool_result")
      return el("span", { class: "result" }, part.is_error ? "error: " : "",
        ...(part.parts ?? []).map((p) => p.text ?? `(${p.kind})`));
    return el("span", { class: "soft" }, `(${part.kind})`);
  });
}

export function call(name, given) {
  return el("span", { class: "call" }, `${name}(${given})`);
}
