// Markdown as it arrives: each finished block is rendered once, and only the last, open one again.
//
// What a model writes is not trusted: HTML passes an allow-list, pictures become their words (an address in a picture
// would be fetched, and could carry a conversation away), links open apart.

import DOMPurify from "./vendor/dompurify-3.4.18/purify.es.js";
import { Marked } from "./vendor/marked-18.2.1/marked.esm.js";
import { button, copy, h } from "./dom.js";

const escape = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const marked = new Marked({ gfm: true, breaks: true, renderer: { image: ({ text }) => escape(`[image: ${text}]`) } });
const DEFINITION = /^ {0,3}\[[^\]]+\]:/m;
const ALLOWED = {
  ALLOWED_TAGS:
    "p br hr h1 h2 h3 h4 h5 h6 strong em b i del s sub sup kbd code pre blockquote ul ol li a input table thead tbody tr th td".split(" "),
  ALLOWED_ATTR: ["href", "title", "align", "start", "type", "checked", "disabled"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer");
  }
  if (node.tagName === "INPUT") {
    node.setAttribute("type", "checkbox"); // of a task list; nothing else may look like a form
    node.setAttribute("disabled", "");
  }
});

function rendered(tokens) {
  const fragment = DOMPurify.sanitize(marked.parser(tokens), ALLOWED);
  for (const pre of fragment.querySelectorAll("pre")) pre.replaceWith(codeFrame(pre.cloneNode(true)));
  for (const table of fragment.querySelectorAll("table")) {
    const frame = { class: "table", tabindex: "0", role: "region", "aria-label": "Table" };
    table.replaceWith(h("div", frame, table.cloneNode(true)));
  }
  return [...fragment.childNodes];
}

function codeFrame(pre) {
  pre.tabIndex = 0;
  return h("div", { class: "code" }, button("Copy code", () => copy(pre.textContent), { class: "small" }), pre);
}

/** An element that shows a growing Markdown text. */
export class MarkdownView {
  constructor(element) {
    this.element = element;
    this.#reset();
  }

  #reset() {
    this.text = "";
    this.settled = 0; // characters in blocks that will not change any more
    this.open = []; // nodes of the last block
    this.code = null; // the text of the last block, where it is code: it only grows
    this.rows = null; // the last block, where it is a list or a table: {shape, holder, settled}
    this.element.replaceChildren();
  }

  /** Show the text, of which what was shown last is usually the beginning. */
  update(given) {
    const text = given.replace(/\r\n?/g, "\n");
    if (!text.startsWith(this.text)) this.#reset();
    this.text = text;
    const tokens = marked.lexer(text.slice(this.settled));
    let last = tokens.length - 1;
    while (last > 0 && tokens[last].type === "space") last--;
    const finished = tokens.slice(0, Math.max(last, 0));
    if (finished.length) {
      this.#replaceOpen(rendered(finished));
      this.open = [];
      this.code = this.rows = null;
      this.settled += finished.reduce((length, token) => length + token.raw.length, 0);
    }
    if (last >= 0) this.#showOpen(tokens[last]);
  }

  /** Show the whole text for good: a link may be defined after its use. */
  finish(text) {
    if (!DEFINITION.test(text)) return this.update(text);
    this.#reset();
    this.element.replaceChildren(...rendered(marked.lexer(text)));
  }

  #showOpen(token) {
    if (token.type === "list" || token.type === "table") {
      this.code = null;
      this.#showRows(token);
    } else if (token.type !== "code") {
      this.code = null;
      this.#replaceOpen(rendered([token]));
    } else if (this.code && token.text.startsWith(this.code.data)) {
      this.code.appendData(token.text.slice(this.code.length));
    } else {
      this.code = document.createTextNode(token.text);
      this.#replaceOpen([codeFrame(h("pre", {}, h("code", {}, this.code)))]);
    }
  }

  /** Show a list or table that grows: of its items or rows only the last can still change. */
  #showRows(token) {
    const parts = token.type === "list" ? "items" : "rows";
    const shape = [token.type, token.ordered, token.start, token.loose, token.align, token.header?.map(({ text }) => text)];
    const known = JSON.stringify(shape);
    if (this.rows?.shape !== known || !token[parts].length) {
      const nodes = rendered([token]);
      this.#replaceOpen(nodes);
      const holder = nodes[0]?.matches?.("ul, ol") ? nodes[0] : nodes[0]?.querySelector?.("tbody");
      this.rows = holder ? { shape: known, holder, settled: token[parts].length - 1 } : null;
      return;
    }
    const { holder, settled } = this.rows;
    const [node] = rendered([{ ...token, [parts]: token[parts].slice(settled) }]);
    const added = (node.matches("ul, ol") ? node : node.querySelector("tbody")).children;
    while (holder.children.length > settled) holder.lastElementChild.remove();
    holder.append(...added);
    this.rows.settled = token[parts].length - 1;
  }

  #replaceOpen(nodes) {
    this.rows = null;
    for (const node of this.open) node.remove();
    this.element.append(...nodes);
    this.open = nodes;
  }
}
