// One answer of the model: the request's body, and the turn that fills while the answer arrives.

import { complete, stream } from "./api.js";
import { attentionPlaces } from "./attention.js";
import { addNode, newId, removeNode, sentTurns } from "./conversation.js";
import { sampling } from "./settings_panel.js";

/** The body of a request for the turn after `parent`. */
function requestBody(conversation, parent, model, settings, functions) {
  const messages = sentTurns(conversation, parent, settings.system).map(({ message }) => message);
  const body = { model, messages, ...sampling(settings) };
  const { tools, execute } = functions;
  if (!tools.length) return body;
  const answered = conversation.nodes[parent].role === "assistant"; // results go back: now it may speak
  const choice = answered && functions.toolChoice !== "none" ? "auto" : functions.toolChoice;
  const wanted = settings.attention ? { x_attention: true } : {};
  return { ...body, ...(execute ? { x_execute: true } : { tools }), ...wanted, tool_choice: choice };
}

/** Tokens, times and context in one line. `first` and `end`: ms since the request; `context`: null for several turns. */
function statsLine(usage, first, end, context) {
  const parts = [];
  if (first !== null) parts.push(`first token after ${Math.round(first)} ms`);
  if (usage) {
    const { completion_tokens: written, prompt_tokens: read } = usage;
    const writing = end - first; // in a few ms nothing was written token by token, but forced, or sent in one go
    const rate = first !== null && writing > 5 ? ((written - 1) / writing) * 1000 : null;
    if (rate) parts.push(`${rate >= 10 ? Math.round(rate) : rate.toFixed(1)} tokens/s`);
    parts.push(`${written} tokens`);
    if (context === null) parts.push(`${read} tokens read`);
    else parts.push(context ? `context ${read} of ${context} (${Math.round((100 * read) / context)}%)` : `context ${read}`);
    if (usage.x_dropped_turns) parts.push(`the oldest ${usage.x_dropped_turns} turns no longer fit`);
  }
  return parts.join(" · ");
}

/**
 * Ask for the turn after `parent` and let it grow in the conversation. `onBegin(node)` once it is there, `onPiece()`
 * when more of it is; resolves to {node, error}: the last turn (null where nothing came), and what went wrong.
 */
export async function generate({ conversation, parent, model, settings, functions, signal, onBegin, onPiece }) {
  const body = requestBody(conversation, parent, model.id, settings, functions);
  const node = addNode(conversation, parent, { role: "assistant", calls: [] });
  onBegin(node);
  const began = performance.now();
  const context = model.x_context_tokens;
  let last = node;
  let error = null;
  try {
    const seen = (given) => attentionPlaces(given, conversation, parent, settings.system);
    if (body.x_execute) {
      last = executed(conversation, node, await complete(body, settings.key, signal), seen, began);
    } else {
      await fill(node, stream(body, settings.key, signal), seen, began, context, onPiece);
    }
  } catch (raised) {
    if (raised.name === "AbortError" || signal.aborted) node.note = "Stopped.";
    else error = raised;
  }
  node.calls = node.calls.filter((call) => call.complete); // a call that was cut is none
  if (!node.text && !node.calls.length && (error || node.note)) {
    removeNode(conversation, node.id);
    return { node: null, error };
  }
  return { node: last, error };
}

async function fill(node, chunks, seen, began, context, onPiece) {
  let first = null;
  let usage = null;
  for await (const chunk of chunks) {
    if (chunk.usage) ({ usage } = chunk);
    const [choice] = chunk.choices;
    if (!choice) continue;
    const { content, tool_calls: calls = [] } = choice.delta;
    if (first === null && (content || calls.length)) first = performance.now() - began;
    if (content) node.text += content;
    for (const piece of calls) addPiece(node, piece, seen);
    if (choice.x_decision) node.decision = choice.x_decision;
    if (choice.finish_reason === "length") node.note = "Cut: the limit on tokens was reached.";
    onPiece();
  }
  node.stats = statsLine(usage, first, performance.now() - began, context);
}

function addPiece(node, piece, seen) {
  const call = (node.calls[piece.index] ??= { id: piece.id, name: piece.function.name, arguments: "", complete: false, result: null });
  call.arguments += piece.function?.arguments ?? "";
  if (piece.x_sources) Object.assign(call, { confidence: piece.x_confidence, sources: piece.x_sources, complete: true });
  if (piece.x_attention) call.attention = seen(piece.x_attention);
}

/** What the server's own loop did, as turns: the calls with their results, then the answer. */
function executed(conversation, node, completion, seen, began) {
  const statuses = { finished: "ok" };
  node.calls = completion.x_steps.map((step) => ({
    id: `call_${newId()}`,
    name: step.name,
    arguments: step.arguments,
    confidence: step.x_confidence,
    sources: step.x_sources,
    attention: step.x_attention ? seen(step.x_attention) : null,
    result: { status: statuses[step.status] ?? step.status, content: step.result, by: "server" },
    complete: true,
  }));
  const [choice] = completion.choices;
  const text = choice.message.content ?? "";
  const last = node.calls.length ? addNode(conversation, node.id, { role: "assistant", calls: [] }) : node;
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  last.text = text;
  last.decision = choice.x_decision;
  last.stats = `${seconds} s · ${statsLine(completion.usage, null, 0, null)}`;
  if (completion.x_stopped_because !== "answer") {
    last.note = `The server stopped: ${completion.x_stopped_because.replaceAll("_", " ")}.`;
  }
  return last;
}
