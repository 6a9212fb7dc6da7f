// One answer of the model: the request's body, and the turn that fills while the answer arrives.

import { stream } from "./api.js";
import { attentionPlaces } from "./attention.js";
import { addNode, removeNode, sentTurns } from "./conversation.js";
import { ServerRun } from "./server_run.js";
import { sampling } from "./settings_panel.js";
import { statsLine } from "./stats.js";

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

/**
 * Ask for the turn after `parent` and let it grow in the conversation. `onBegin(node)` once it is there, and for each
 * further turn where the server runs functions; `onPiece()` when more of it is; resolves to {node, error}: the last
 * turn (null where nothing came), and what went wrong.
 */
export async function generate({ conversation, parent, model, settings, functions, signal, onBegin, onPiece }) {
  const body = requestBody(conversation, parent, model.id, settings, functions);
  const node = addNode(conversation, parent, { role: "assistant", calls: [] });
  onBegin(node);
  const began = performance.now();
  const context = model.x_context_tokens;
  const seen = (given) => attentionPlaces(given, conversation, parent, settings.system);
  const run = new ServerRun(conversation, node, seen, onBegin);
  let error = null;
  try {
    const chunks = stream(body, settings.key, signal);
    if (body.x_execute) await run.follow(chunks, began, onPiece);
    else await fill(node, chunks, seen, began, context, onPiece);
  } catch (raised) {
    if (raised.name === "AbortError" || signal.aborted) run.last.note = "Stopped.";
    else error = raised;
  }
  for (const turn of run.turns) turn.calls = turn.calls.filter((call) => call.complete); // a call that was cut is none
  run.end();
  for (const turn of run.turns.toReversed()) {
    if (turn.text || turn.calls.length || !(error || turn.note)) return { node: turn, error };
    removeNode(conversation, turn.id);
  }
  return { node: null, error };
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
