// One turn of a conversation on the page.

import { looksAt } from "./attention.js";
import { branch, openCalls, path } from "./conversation.js";
import { CallCard } from "./call_card.js";
import { button, copy, h, iconButton } from "./dom.js";
import { MarkdownView } from "./markdown.js";
import { showPicture, thumbnail } from "./picture.js";

export class TurnView {
  /** chat: what the buttons ask for: `edit`, `retry`, `remove`, `choose`, `resultsChanged`, `functions`, `busy`. */
  constructor(conversation, node, chat) {
    Object.assign(this, { conversation, node, chat });
    const user = node.role === "user";
    this.text = user ? h("div", { class: "text", "data-origin": "user" }) : h("div", { class: "text" });
    this.markdown = user ? null : new MarkdownView(this.text);
    this.cards = h("div", { class: "cards" });
    this.foot = h("footer");
    this.calls = [];
    const images = (node.images ?? []).map((url, index) => h("li", {}, this.#thumbnail(url, index)));
    this.element = h(
      "article",
      { class: node.role, "aria-label": user ? "You" : "Assistant" },
      images.length ? h("ul", { class: "images", "aria-label": "Images" }, images) : null,
      this.text,
      this.cards,
      this.foot,
    );
  }

  #thumbnail(url, index) {
    const looks = () => looksAt(this.conversation, path(this.conversation).indexOf(this.node), index);
    return thumbnail(url, `image ${index + 1}`, looks);
  }

  /** An image of a turn, large, with what an argument of a call looked at on it. */
  #showPicture(turn, number, call, name) {
    const looks = looksAt(this.conversation, turn, number);
    const chosen = looks.find((look) => look.call === call && look.name === name);
    showPicture(path(this.conversation)[turn].images[number], `image ${number + 1}`, looks, chosen);
  }

  /** Show what has arrived so far; `writing` until the turn is complete. */
  show(writing = false) {
    const { node } = this;
    if (!this.markdown) this.text.textContent = node.text;
    else if (writing) this.markdown.update(node.text);
    else this.markdown.finish(node.text);
    this.text.hidden = !node.text;
    for (const [index, call] of (node.calls ?? []).entries()) {
      if (this.calls[index]?.call !== call) {
        this.calls[index] = new CallCard(call, {
          parameters: (name) => this.chat.functions.parameters(name),
          served: (name) => this.chat.functions.served(name),
          run: () => this.chat.runOnServer(node, call),
          changed: () => this.chat.resultsChanged(node),
          locked: () => node.children.length > 0,
          openPicture: (place, seen, name) => this.#showPicture(place.turn, place.image, seen, name),
        });
        this.cards.append(this.calls[index].element);
      }
      this.calls[index].fill();
    }
    while (this.calls.length > (node.calls?.length ?? 0)) this.calls.pop().element.remove();
    this.foot.replaceChildren(...(writing ? [this.#waiting()] : this.#footer()).filter(Boolean));
  }

  /** Show anew what may have changed by what follows this turn: branches, and whether calls may still be changed. */
  refresh() {
    this.foot.replaceChildren(...this.#footer().filter(Boolean));
    for (const card of this.calls) card.render();
  }

  #waiting() {
    const { text, calls } = this.node;
    return text || calls.length ? null : h("span", { class: "quiet pulse" }, "Waiting for the server…");
  }

  #footer() {
    const { node, chat } = this;
    const { number, count } = branch(this.conversation, node);
    const busy = chat.busy ? true : null;
    const branches =
      count > 1 &&
      h(
        "span",
        { class: "branches", role: "group", "aria-label": "Branches" },
        iconButton("‹", "Previous branch", () => chat.choose(node, -1), { disabled: busy || number === 1 }),
        `${number}/${count}`,
        iconButton("›", "Next branch", () => chat.choose(node, 1), { disabled: busy || number === count }),
      );
    const buttons = [
      node.text && button("Copy", () => copy(node.text)),
      node.role === "user" && button("Edit", () => this.#edit(), { disabled: busy }),
      node.role === "assistant" && button("Retry", () => chat.retry(node), { disabled: busy }),
      button("Delete", () => chat.remove(node), { disabled: busy }),
    ];
    return [
      node.note && h("p", { class: "note" }, node.note),
      h("div", { class: "turn-actions", role: "group", "aria-label": "Turn" }, branches || null, buttons.filter(Boolean)),
      node.stats && h("p", { class: "stats" }, node.stats),
      node.decision && this.#decision(),
    ];
  }

  #decision() {
    const percent = (share) => `${Math.round(share * 100)}%`;
    const { trigger = {}, selection = [] } = this.node.decision;
    const when = Object.entries(trigger).map(([name, share]) => `${name.replace("_", " ")} ${percent(share)}`);
    const which = selection.slice(0, 5).map(({ name, probability }) => `${name} ${percent(probability)}`);
    return h(
      "details",
      { class: "decision" },
      h("summary", {}, "What the model decided first"),
      h("p", {}, `When: ${when.join(", ")}`),
      which.length ? h("p", {}, `Which: ${which.join(", ")}`) : null,
    );
  }

  #edit() {
    const text = h("textarea", { rows: 4, "aria-label": "Edit message" });
    text.value = this.node.text;
    const save = () => {
      this.show();
      this.chat.edit(this.node, text.value);
    };
    const cancel = () => this.show();
    this.text.hidden = false;
    this.text.replaceChildren(text);
    this.foot.replaceChildren(
      h("div", { class: "actions" }, button("Send as new branch", save, { class: "primary" }), button("Cancel", cancel)),
    );
    text.focus();
  }
}

/** Mark calls that nobody answered, when the user goes on without them. */
export function leaveOpenCalls(node) {
  for (const call of openCalls(node)) {
    call.result = { status: "not run", content: '{"error":"not run: the user went on without it"}' };
  }
}
