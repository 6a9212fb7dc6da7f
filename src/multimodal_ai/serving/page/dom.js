// Making elements. Text is always text: nothing here parses HTML.

/**
 * An element. `properties`: `class`, `on<event>` handlers, `aria-*`, `data-*` and other attributes; `true` sets an
 * empty attribute, `false`, `null` and `undefined` none. Children: nodes, texts, and lists of them; null is left out.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A button that says what it does. */
export function button(text, onclick, properties = {}) {
  return h("button", { type: "button", onclick, ...properties }, text);
}

/** A button of one sign; the words are for screen readers and the pointer. */
export function iconButton(sign, words, onclick, properties = {}) {
  return button(sign, onclick, { class: "icon", "aria-label": words, title: words, ...properties });
}

export const byId = (id) => document.getElementById(id);

/** Say something to screen readers, and show it for a moment; not `shown` is what the page shows elsewhere. */
export function announce(words, shown = true) {
  const status = byId("status");
  status.textContent = words;
  status.classList.toggle("shown", shown);
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => status.classList.remove("shown"), 2500);
}

/** Put text on the clipboard. Plain http to another machine has no clipboard API; then this says so. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    announce("Copied");
  } catch {
    announce("The browser allows no copying here; use https or localhost");
  }
}

/** Offer a text as a file. */
export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
