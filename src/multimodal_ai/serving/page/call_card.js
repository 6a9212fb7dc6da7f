// A call as a card: it fills while its arguments arrive, then waits for the user's word and the result.
//
// Nothing is run here. The server runs approved calls of its own functions; any other asks for its result, since only
// the user knows where it runs.

import { imageShare } from "./attention.js";
import { argumentErrors, partialArguments } from "./arguments.js";
import { announce, button, h } from "./dom.js";
import { darken, findValue, inWords, lightSeen, lightUp } from "./provenance.js";

const STATES = {
  writing: "arguments arrive…",
  waiting: "waits for you",
  running: "running: waits for its result",
  "on the server": "running on the server…",
  ok: "ok",
  failed: "failed",
  denied: "denied",
  blocked: "blocked by the server",
  "not run": "not run",
};

export class CallCard {
  /**
   * call: {id, name, arguments, confidence, sources, attention, result, approved}. actions: `parameters(name)`,
   * `served(name)`, whether the server has this function, `run()`, to let it run the call, `changed()`, called when the
   * call has changed, `locked()`, whether what the call led to is already there, and `openPicture(place, call, name)`,
   * which shows large what an argument looked at.
   */
  constructor(call, actions) {
    this.call = call;
    this.actions = actions;
    this.state = h("span", { class: "state" });
    this.confidence = h("span", { class: "confidence" });
    this.rows = h("dl");
    this.below = h("div", { class: "below" });
    const title = h("header", {}, h("strong", {}, "ƒ ", h("code", {}, call.name)), this.confidence, this.state);
    this.element = h("section", { class: "card", "aria-label": `Call of ${call.name}` }, title, this.rows, this.below);
    this.fields = new Map(); // of arguments that arrive, by name
    this.whole = false;
    this.served = false; // the server is running it
  }

  get stage() {
    const { result, approved } = this.call;
    if (result) return result.status;
    if (this.call.complete === false) return "writing";
    if (this.served || this.call.by === "server") return "on the server";
    return approved ? "running" : "waiting";
  }

  /** Show what has arrived; once the call is complete, show it for good. */
  fill() {
    if (this.call.complete !== false) {
      if (!this.whole || this.element.dataset.state !== this.stage) this.render();
      return;
    }
    for (const [name, value] of partialArguments(this.call.arguments)) {
      if (!this.fields.has(name)) {
        const field = { value: h("code"), source: h("span") };
        this.fields.set(name, field);
        this.rows.append(h("dt", {}, name), h("dd", {}, field.value, field.source));
      }
      this.fields.get(name).value.textContent = value;
    }
    this.#showState();
  }

  #showState() {
    this.state.textContent = STATES[this.stage] ?? this.stage;
    this.element.dataset.state = this.stage;
  }

  /** Show the whole call: sources, confidence, and what can be done with it. */
  render() {
    const { call } = this;
    if (call.complete === false) return;
    this.whole = true;
    this.rows.replaceChildren();
    const values = JSON.parse(call.arguments);
    for (const [name, value] of Object.entries(values)) {
      const words = h("code", {}, JSON.stringify(value));
      this.rows.append(h("dt", {}, name), h("dd", {}, words, this.#source(name, value)));
    }
    if (!Object.keys(values).length) this.rows.append(h("dd", { class: "quiet" }, "no arguments"));
    this.confidence.replaceChildren();
    if (typeof call.confidence === "number") {
      const share = Math.round(call.confidence * 100);
      const meter = h("meter", { min: 0, max: 1, low: 0.5, high: 0.8, optimum: 1, value: call.confidence });
      meter.setAttribute("aria-label", `Confidence ${share}%`);
      this.confidence.append(meter, ` ${share}% sure`);
    }
    this.#showState();
    this.#showBelow();
  }

  #source(name, value) {
    const source = this.call.sources?.[name];
    if (this.call.edited) return h("span", { class: "source" }, "edited by you");
    const view = Object.hasOwn(this.call.attention ?? {}, name) ? this.call.attention[name] : null;
    const words = inWords(source, view);
    if (!words) return null;
    const seen = view && (view.words.length || imageShare(view)) ? view : null;
    const said = ["user", "function_result"].includes(source.origin);
    if (!seen && !said) return h("span", { class: "source" }, words);
    const show = () => {
      if (seen) return lightSeen(seen);
      const ranges = findValue(value, source.origin);
      lightUp(ranges);
      return ranges[0]?.startContainer.parentElement;
    };
    const find = () => {
      const looked = seen && imageShare(seen);
      if (looked && looked.share > 0.5) return this.actions.openPicture(looked.image, this.call, name);
      const place = show();
      place?.closest("details")?.setAttribute("open", "");
      place?.scrollIntoView({ block: "nearest" });
      announce(place ? `${name}: its words are lit up` : `${name}: its words are not found in one piece`);
    };
    const title = seen ? "Show what the model looked at" : "Show where these words stand";
    const properties = { class: "source", "data-source": source.origin, title, "aria-label": `${name}: ${words}` };
    return button(words, find, { ...properties, onpointerenter: show, onpointerleave: darken, onfocus: show, onblur: darken });
  }

  #showBelow() {
    const { call } = this;
    const again = call.result && call.result.by !== "server" && !this.actions.locked();
    const parts = {
      waiting: () => [this.#choices()],
      running: () => [this.#resultForm()],
    };
    const made = parts[this.stage]?.() ?? [this.#result(), again && button("Take back", () => this.#takeBack(), { class: "small" })];
    this.below.replaceChildren(...made.filter(Boolean));
  }

  #changed(focus = true) {
    this.render();
    if (focus) this.below.querySelector("textarea, button, summary")?.focus();
    this.actions.changed();
  }

  #takeBack() {
    Object.assign(this.call, { result: null, approved: false });
    this.#changed();
  }

  async #runOnServer() {
    this.served = true;
    this.render();
    await this.actions.run();
    this.served = false;
    this.#changed(false);
    announce(`${this.call.name}: ${STATES[this.stage] ?? this.stage}`, false);
  }

  #choices() {
    const approve = () => {
      if (this.actions.served(this.call.name)) return this.#runOnServer();
      this.call.approved = true;
      this.#changed();
    };
    const deny = () => {
      this.call.result = { status: "denied", content: '{"error":"the user denied this call"}' };
      this.#changed(false);
    };
    return h(
      "div",
      { class: "actions" },
      button("Approve", approve, { class: "primary" }),
      button("Edit", () => this.#edit()),
      button("Deny", deny),
    );
  }

  #edit() {
    const text = h("textarea", { rows: 6, spellcheck: "false", "aria-label": "Arguments as JSON" });
    text.value = JSON.stringify(JSON.parse(this.call.arguments), null, 2);
    const errors = h("ul", { class: "errors", role: "alert" });
    const save = () => {
      const found = argumentErrors(text.value, this.actions.parameters(this.call.name));
      errors.replaceChildren(...found.map((error) => h("li", {}, error)));
      if (found.length) return;
      const edited = JSON.stringify(JSON.parse(text.value));
      if (edited !== this.call.arguments) Object.assign(this.call, { arguments: edited, edited: true });
      this.#changed();
    };
    const cancel = () => {
      this.#showBelow();
      this.below.querySelector("button").focus();
    };
    this.below.replaceChildren(
      text,
      errors,
      h("div", { class: "actions" }, button("Save", save, { class: "primary" }), button("Cancel", cancel)),
    );
    text.focus();
  }

  #resultForm() {
    const text = h("textarea", { rows: 3, "aria-label": `Result of ${this.call.name}`, placeholder: '{"status":"ok"}' });
    const failed = h("input", { type: "checkbox" });
    const send = () => {
      const content = failed.checked ? JSON.stringify({ error: text.value || "the function failed" }) : text.value;
      this.call.result = { status: failed.checked ? "failed" : "ok", content };
      this.#changed(false);
    };
    return h(
      "div",
      { class: "result-form" },
      h("p", { class: "quiet" }, "Run the function where it lives, and give its result here."),
      text,
      h("div", { class: "actions" }, h("label", {}, failed, " It failed"), button("Give result", send, { class: "primary" })),
    );
  }

  #result() {
    const { content } = this.call.result ?? {};
    if (!content) return null;
    return h("details", {}, h("summary", {}, "Result"), h("pre", { tabindex: "0", "data-origin": "function_result" }, content));
  }
}
