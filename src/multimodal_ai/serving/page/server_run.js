// A run of the server's own loop (`x_execute`) as turns, while it streams: what the model says, its calls, what the
// server makes of them, and what the model says then.

import { addNode, newId } from "./conversation.js";
import { statsLine } from "./stats.js";

const UNKNOWN = '{"error":"the run ended before a result came"}';

export class ServerRun {
  /** node: the first turn, which is there already. seen(x_attention): as places of the page. */
  constructor(conversation, node, seen, onBegin) {
    Object.assign(this, { conversation, seen, onBegin });
    this.turns = [node];
    this.calls = new Map(); // by their number in the run
  }

  get last() {
    return this.turns.at(-1);
  }

  /** Let the turns grow with the chunks of a stream. */
  async follow(chunks, began, onPiece) {
    let usage = null;
    for await (const chunk of chunks) {
      if (chunk.usage) ({ usage } = chunk);
      const [choice] = chunk.choices;
      if (!choice) continue;
      const { content } = choice.delta;
      if (content && this.last.calls.length) this.#next();
      if (content) this.last.text += content;
      if (choice.x_step) this.#step(choice.x_step);
      if (choice.x_decision) this.last.decision = choice.x_decision;
      const reason = choice.x_stopped_because;
      if (reason && reason !== "answer") this.last.note = `The server stopped: ${reason.replaceAll("_", " ")}.`;
      onPiece();
    }
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    this.last.stats = `${seconds} s · ${statsLine(usage, null, 0, null)}`;
  }

  /** Results that never came are said to be missing, so that the conversation can go on. */
  end() {
    for (const call of this.calls.values()) call.result ??= { status: "not run", content: UNKNOWN, by: "server" };
  }

  #next() {
    this.turns.push(addNode(this.conversation, this.last.id, { role: "assistant", calls: [] }));
    this.onBegin(this.last);
  }

  #step(step) {
    if (step.type === "call_start") {
      if (this.last.calls.some((call) => call.result)) this.#next();
      const known = { id: `call_${newId()}`, name: step.name, arguments: "", complete: false, by: "server", result: null };
      this.calls.set(step.call, known);
      this.last.calls.push(known);
    }
    const call = this.calls.get(step.call);
    if (step.type === "arguments") call.arguments += step.arguments;
    if (step.type === "call") {
      const { arguments: text, x_confidence: confidence, x_sources: sources } = step;
      Object.assign(call, { arguments: text, confidence, sources, complete: true });
    }
    if (step.x_attention) call.attention = this.seen(step.x_attention);
    if (step.type === "result") {
      const status = step.status === "finished" ? "ok" : step.status;
      call.result = { status, content: step.result, by: "server" };
    }
  }
}
