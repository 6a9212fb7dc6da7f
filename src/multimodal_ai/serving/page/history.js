// The list of conversations: search, rename, delete, export, import.

import { wordsOf } from "./conversation.js";
import { announce, byId, download, h, iconButton } from "./dom.js";
import { exported, imported, remove, save } from "./store.js";

export class HistoryPanel {
  /** conversations: all of them, the last changed first. actions: `open(conversation)`, `removed(conversation)`. */
  constructor(conversations, actions) {
    Object.assign(this, { conversations, actions, current: null, renaming: null });
    this.list = byId("history-list");
    this.search = byId("search");
    this.search.addEventListener("input", () => this.render());
    byId("export").addEventListener("click", () => download("conversations.json", exported(this.conversations)));
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", (event) => this.#import(event.target));
  }

  /** Keep a conversation, which may be new, and put it first. */
  async keep(conversation) {
    conversation.changed = Date.now();
    this.conversations = [conversation, ...this.conversations.filter((other) => other !== conversation)];
    this.render();
    try {
      await save(conversation);
    } catch (error) {
      announce(`This browser keeps no history: ${error.message}`);
    }
  }

  render() {
    const wanted = this.search.value.trim().toLowerCase();
    const found = this.conversations.filter((conversation) => !wanted || wordsOf(conversation).includes(wanted));
    const rows = found.map((conversation) => this.#row(conversation));
    const words = wanted ? "Nothing found." : "No conversations yet.";
    this.list.replaceChildren(...(rows.length ? rows : [h("li", { class: "quiet" }, words)]));
    this.list.querySelector("input")?.select();
  }

  #row(conversation) {
    const { title } = conversation;
    if (this.renaming === conversation) return this.#renameRow(conversation);
    const current = conversation === this.current ? "page" : null;
    const open = () => this.actions.open(conversation);
    const rename = () => {
      this.renaming = conversation;
      this.render();
    };
    return h(
      "li",
      {},
      h("button", { type: "button", class: "title", "aria-current": current, onclick: open }, title),
      iconButton("✎", `Rename ${title}`, rename),
      iconButton("✕", `Delete ${title}`, () => this.#delete(conversation)),
    );
  }

  #renameRow(conversation) {
    const input = h("input", { type: "text", "aria-label": "New title", value: conversation.title, maxlength: 200 });
    const end = async (keep) => {
      if (this.renaming !== conversation) return;
      this.renaming = null;
      if (keep && input.value.trim()) {
        conversation.title = input.value.trim();
        await this.keep(conversation);
      } else this.render();
    };
    input.addEventListener("blur", () => end(true));
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") end(true);
      if (event.key === "Escape") {
        event.stopPropagation();
        end(false);
      }
    });
    return h("li", {}, input);
  }

  async #delete(conversation) {
    if (!confirm(`Delete "${conversation.title}"?`)) return;
    this.conversations = this.conversations.filter((other) => other !== conversation);
    this.actions.removed(conversation);
    this.render();
    await remove(conversation.id);
    announce("Deleted");
  }

  async #import(input) {
    const [file] = input.files;
    if (!file) return;
    try {
      const found = imported(await file.text());
      for (const conversation of found) await save(conversation);
      this.conversations = [...found, ...this.conversations].sort((one, other) => other.changed - one.changed);
      this.render();
      announce(`${found.length} conversation${found.length === 1 ? "" : "s"} imported`);
    } catch (error) {
      announce(`${file.name}: ${error.message}`);
    }
    input.value = "";
  }
}
