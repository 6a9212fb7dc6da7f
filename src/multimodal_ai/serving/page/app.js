// The page's beginning: puts the parts together and carries a conversation on.

import { ApiError, fetchModel, runCalls } from "./api.js";
import { addNode, chooseBranch, newConversation, openCalls, path, removeNode, sentTurns, toolCall } from "./conversation.js";
import { announce, button, byId, h } from "./dom.js";
import { FunctionsPanel } from "./functions_panel.js";
import { generate } from "./generation.js";
import { HistoryPanel } from "./history.js";
import { ImageTray } from "./images.js";
import { bindSettings } from "./settings_panel.js";
import { loadAll, loadSettings } from "./store.js";
import { TurnView, leaveOpenCalls } from "./turn_view.js";

class Chat {
  constructor(settings, conversations) {
    this.settings = settings;
    this.connection = { model: null };
    this.views = new Map();
    this.running = null; // an AbortController while an answer is written
    this.log = byId("log");
    this.input = byId("message");
    this.tray = new ImageTray();
    this.functions = new FunctionsPanel(settings, this.connection, () => this.#countFunctions());
    this.history = new HistoryPanel(conversations, {
      open: (conversation) => this.open(conversation),
      removed: (conversation) => conversation === this.conversation && this.open(newConversation()),
    });
    this.#bindComposer();
    this.open(newConversation());
  }

  get busy() {
    return this.running !== null;
  }

  #bindComposer() {
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.send();
      }
    });
    byId("stop").addEventListener("click", () => this.stop());
    byId("new").addEventListener("click", () => this.open(newConversation()));
  }

  // -- the server ------------------------------------------------------------------------------------------------

  /** Ask the server what it serves; say so where it does not answer. */
  async connect() {
    try {
      this.connection.model = await fetchModel(this.settings.key);
      byId("model").textContent = this.connection.model.id;
      this.showError(null);
    } catch (error) {
      this.connection.model = null;
      byId("model").textContent = "not connected";
      this.showError(error, () => this.connect());
    }
    this.functions.render();
    this.#countFunctions();
    return this.connection.model !== null;
  }

  /** Show what went wrong and how to go on; null takes it away. */
  showError(error, again = null) {
    if (error && !(error instanceof ApiError)) console.error(error);
    const box = byId("error");
    const words = error && (error instanceof ApiError ? error.message : `The page failed: ${error.message}`);
    const retry = again && button("Try again", again);
    const settings = error?.kind === "key" && button("Settings", () => openPanel("settings"));
    box.replaceChildren(...(error ? [h("p", {}, words), settings || null, retry].filter(Boolean) : []));
    box.hidden = !error;
  }

  #countFunctions() {
    const count = this.functions.tools.length;
    byId("open-functions").textContent = count ? `Functions (${count})` : "Functions";
  }

  // -- the conversation ------------------------------------------------------------------------------------------

  open(conversation) {
    this.stop();
    this.running = null;
    this.conversation = conversation;
    this.history.current = conversation;
    this.history.render();
    this.views.clear();
    this.showError(null);
    this.render();
    this.#toEnd();
    if (matchMedia("(max-width: 760px)").matches) closePanel("history");
    this.input.focus();
  }

  render() {
    const nodes = path(this.conversation);
    const elements = nodes.map((node) => {
      let view = this.views.get(node.id);
      if (view) view.refresh();
      else {
        view = new TurnView(this.conversation, node, this);
        this.views.set(node.id, view);
        view.show(this.busy && node === nodes.at(-1) && node.role === "assistant");
      }
      return view.element;
    });
    this.log.replaceChildren(...elements);
    byId("empty").hidden = nodes.length > 0;
    byId("send").hidden = this.busy;
    byId("stop").hidden = !this.busy;
  }

  send() {
    const text = this.input.value.trim();
    if (this.busy || (!text && !this.tray.urls.length)) return;
    const { conversation } = this;
    const last = path(conversation).at(-1);
    if (last) leaveOpenCalls(last);
    const node = addNode(conversation, last?.id ?? null, { role: "user", text, images: this.tray.take() });
    this.input.value = "";
    if (conversation.title === "New chat") conversation.title = text.slice(0, 60) || "An image";
    this.answer(node);
  }

  edit(node, text) {
    const edited = addNode(this.conversation, node.parent, { role: "user", text, images: [...(node.images ?? [])] });
    this.answer(edited);
  }

  retry(node) {
    this.answer(this.conversation.nodes[node.parent]);
  }

  remove(node) {
    removeNode(this.conversation, node.id);
    this.showError(null);
    this.render();
    this.history.keep(this.conversation);
  }

  choose(node, step) {
    chooseBranch(this.conversation, node, step);
    this.showError(null); // it spoke of the other branch
    this.render();
    this.history.keep(this.conversation);
  }

  /** A call was approved, edited, answered or denied; with the last result the model goes on. */
  resultsChanged(node) {
    this.history.keep(this.conversation);
    if (!openCalls(node).length && !node.children.length && !this.busy) this.answer(node);
  }

  /** Let the server run a call that was approved, of a function of its own. */
  async runOnServer(node, call) {
    const { conversation, settings } = this;
    this.showError(null);
    const messages = sentTurns(conversation, node.parent, settings.system).map(({ message }) => message);
    messages.push({ role: "assistant", content: node.text || null, tool_calls: [toolCall(call)] });
    try {
      const [{ status, content }] = await runCalls(this.connection.model.id, messages, settings.key);
      call.result = { status: status === "finished" ? "ok" : status, content, by: "server" };
      await this.history.keep(conversation);
    } catch (error) {
      this.showError(error);
    }
  }

  stop() {
    this.running?.abort();
  }

  // -- answers ---------------------------------------------------------------------------------------------------

  /** Let the model write the turn after `parent`. */
  async answer(parent) {
    const { conversation, settings, functions } = this;
    this.showError(null);
    const running = (this.running = new AbortController());
    this.render();
    this.#toEnd();
    await this.history.keep(conversation);
    let ended = { node: null, error: null };
    let view = null;
    const painter = new Painter(() => view?.show(true), byId("scroll"));
    if (this.connection.model || (await this.connect())) {
      const onBegin = (node) => {
        view?.show(); // a turn before it is complete
        this.render();
        view = this.views.get(node.id);
        announce("The model is writing", false);
      };
      const onPiece = () => painter.ask();
      const { signal } = running;
      const asked = { conversation, parent: parent.id, model: this.connection.model, settings, functions };
      ended = await generate({ ...asked, signal, onBegin, onPiece });
    }
    painter.stop();
    if (this.running === running) this.running = null;
    if (this.conversation === conversation) {
      const sticks = painter.sticks;
      if (ended.node) this.views.get(view.node.id)?.show();
      this.render();
      if (sticks) this.#toEnd();
      if (ended.error) this.showError(ended.error, () => this.answer(parent));
      else if (ended.node) announce(openCalls(ended.node).length ? "A call waits for you" : "The answer is complete", false);
    }
    if (this.history.conversations.includes(conversation)) await this.history.keep(conversation); // or it was deleted
  }

  #toEnd() {
    const scroll = byId("scroll");
    scroll.scrollTop = scroll.scrollHeight;
  }
}

/** Paints at most once a frame, and leaves the browser at least as much time as painting took. */
class Painter {
  constructor(paint, scroll) {
    Object.assign(this, { paint, scroll, frame: null, resumeAt: 0 });
  }

  /** Whether the end is in view, so that it should stay there. */
  get sticks() {
    return this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight < 80;
  }

  ask() {
    this.frame ??= requestAnimationFrame(() => this.#run());
  }

  stop() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
  }

  #run() {
    this.frame = null;
    const began = performance.now();
    if (began < this.resumeAt) return this.ask();
    const { sticks } = this;
    this.paint();
    if (sticks) this.scroll.scrollTop = this.scroll.scrollHeight;
    const took = performance.now() - began;
    this.resumeAt = began + 2 * took;
  }
}

// -- panels ------------------------------------------------------------------------------------------------------

const PANELS = ["history", "functions", "settings"];

function setPanel(name, open) {
  byId(name).hidden = !open;
  byId(`open-${name}`).setAttribute("aria-expanded", String(open));
}

function closePanel(name) {
  setPanel(name, false);
}

/** Open a panel; the two on the right, and on a phone all, stand alone. */
function openPanel(name) {
  const narrow = matchMedia("(max-width: 760px)").matches;
  for (const other of PANELS) if (other !== name && (narrow || other !== "history")) closePanel(other);
  setPanel(name, true);
  byId(name).querySelector("input, select, textarea, button")?.focus();
}

function bindPanels(chat) {
  for (const name of PANELS) {
    const opener = byId(`open-${name}`);
    opener.addEventListener("click", () => (byId(name).hidden ? openPanel(name) : closePanel(name)));
    byId(name).querySelector(".close").addEventListener("click", () => {
      closePanel(name);
      opener.focus();
    });
  }
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector(".close")?.addEventListener("click", () => dialog.close());
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    const open = PANELS.find((name) => byId(name).contains(document.activeElement));
    if (open) {
      closePanel(open);
      byId(`open-${open}`).focus();
    } else chat.stop();
  });
  setPanel("history", matchMedia("(min-width: 1100px)").matches);
}

async function begin() {
  const settings = loadSettings();
  let conversations = [];
  try {
    conversations = await loadAll();
  } catch (error) {
    announce(`This browser keeps no history: ${error.message}`);
  }
  const chat = new Chat(settings, conversations);
  bindPanels(chat);
  bindSettings(settings, (name) => name === "key" && chat.connect());
  await chat.connect();
}

begin();
