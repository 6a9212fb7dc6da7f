// A conversation as a tree: every edit and retry is a branch, and one path through it is shown and sent.
//
// A node is a turn. `user`: text and images (data URLs). `assistant`: text and calls, each with its result once there
// is one; what the model says after results is the next assistant node. Plain data only: it is stored and exported.

export const newId = () => crypto.getRandomValues(new Uint32Array(4)).reduce((id, part) => id + part.toString(36), "");

export function newConversation() {
  const now = Date.now();
  return { id: newId(), title: "New chat", created: now, changed: now, root: { children: [], chosen: 0 }, nodes: {} };
}

const holder = (conversation, id) => (id === null ? conversation.root : conversation.nodes[id]);

/** Add a turn under another (null: at the beginning) as the branch that is shown. */
export function addNode(conversation, parent, fields) {
  const node = { id: newId(), parent, children: [], chosen: 0, text: "", created: Date.now(), ...fields };
  conversation.nodes[node.id] = node;
  const above = holder(conversation, parent);
  above.children.push(node.id);
  above.chosen = above.children.length - 1;
  return node;
}

/** Take a turn and all that follows out. */
export function removeNode(conversation, id) {
  const node = conversation.nodes[id];
  for (const child of [...node.children]) removeNode(conversation, child);
  const above = holder(conversation, node.parent);
  above.children = above.children.filter((child) => child !== id);
  above.chosen = Math.max(0, Math.min(above.chosen, above.children.length - 1));
  delete conversation.nodes[id];
}

/** The turns that are shown, from the first to the last. */
export function path(conversation) {
  const shown = [];
  let above = conversation.root;
  while (above.children.length) {
    above = conversation.nodes[above.children[above.chosen]];
    shown.push(above);
  }
  return shown;
}

/** Which of how many branches a turn is, counted from 1. */
export function branch(conversation, node) {
  const { children } = holder(conversation, node.parent);
  return { number: children.indexOf(node.id) + 1, count: children.length };
}

/** Show the next branch (step 1) or the one before (-1). */
export function chooseBranch(conversation, node, step) {
  const above = holder(conversation, node.parent);
  above.chosen = Math.max(0, Math.min(above.chosen + step, above.children.length - 1));
}

/** Calls that still wait for a result. */
export const openCalls = (node) => (node.calls ?? []).filter((call) => !call.result);

/**
 * The path up to a turn as it is sent: for each message {message, text, turn, call}, in the API's form, with the text
 * that stands on the page as it is (null: none), the turn's number, and for a result the number of its call.
 */
export function sentTurns(conversation, until, system) {
  const sent = system ? [{ message: { role: "system", content: system }, text: system }] : [];
  for (const [turn, node] of path(conversation).entries()) {
    if (node.role === "user") {
      const images = (node.images ?? []).map((url) => ({ type: "image_url", image_url: { url } }));
      const text = node.text ? [{ type: "text", text: node.text }] : [];
      const content = images.length ? [...images, ...text] : node.text;
      sent.push({ message: { role: "user", content }, text: node.text, turn, call: null });
    } else {
      const message = { role: "assistant", content: node.text || (node.calls?.length ? null : "") };
      if (node.calls?.length) message.tool_calls = node.calls.map(toolCall);
      sent.push({ message, text: null, turn, call: null });
      for (const [number, call] of (node.calls ?? []).entries()) {
        const content = call.result?.content ?? '{"error":"not run"}';
        const result = { role: "tool", tool_call_id: call.id, name: call.name, content };
        sent.push({ message: result, text: content, turn, call: number });
      }
    }
    if (node.id === until) break;
  }
  return sent;
}

/** A call in the API's form. */
export function toolCall(call) {
  return { id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } };
}

/** All that is said in a conversation, for searching. */
export function wordsOf(conversation) {
  return [conversation.title, ...Object.values(conversation.nodes).map((node) => node.text)].join("\n").toLowerCase();
}

/** A conversation from a file, or an Error that says what is wrong with it. Unknown fields are dropped. */
export function checked(given, place) {
  const fail = (what) => {
    throw new Error(`${place}: ${what}`);
  };
  const isText = (value) => typeof value === "string";
  if (typeof given !== "object" || given === null || !isText(given.title)) fail("expected a conversation with a title");
  const conversation = { ...newConversation(), title: given.title };
  if (Number.isFinite(given.created)) conversation.created = given.created;
  if (Number.isFinite(given.changed)) conversation.changed = given.changed;
  const copyUnder = (children, parent, chosen) => {
    if (!Array.isArray(children)) fail("`children` must be a list");
    for (const id of children) {
      const node = Object.hasOwn(given.nodes ?? {}, id) ? given.nodes[id] : fail(`turn ${id} is missing`);
      if (!["user", "assistant"].includes(node.role)) fail(`turn ${id}: its role must be user or assistant`);
      if (parent === null && node.role !== "user") fail(`turn ${id}: the first turn must be the user's`);
      if (!isText(node.text)) fail(`turn ${id}: its text is missing`);
      if ((node.images ?? []).some((url) => !/^data:image\/(png|jpeg|webp|gif|bmp);base64,/.test(url))) {
        fail(`turn ${id}: an image is no data URL`);
      }
      const fields = { role: node.role, text: node.text };
      if (node.images) fields.images = [...node.images];
      if (node.calls) fields.calls = node.calls.map((call) => checkedCall(call, fail, id));
      for (const name of ["stats", "decision", "finish"]) if (node[name]) fields[name] = node[name];
      if (Object.keys(conversation.nodes).length > 100_000) fail("more than 100,000 turns");
      const copied = addNode(conversation, parent, fields);
      copyUnder(node.children, copied.id, node.chosen);
    }
    const above = holder(conversation, parent);
    above.chosen = Math.max(0, Math.min(Number(chosen) || 0, above.children.length - 1));
  };
  copyUnder(given.root?.children, null, given.root?.chosen);
  return conversation;
}

function checkedCall(call, fail, id) {
  const { name, arguments: text, confidence = null, sources = {}, result = null, edited = false } = call ?? {};
  if (typeof name !== "string" || typeof text !== "string") fail(`turn ${id}: a call needs a name and arguments`);
  if (result !== null && (typeof result.content !== "string" || typeof result.status !== "string")) {
    fail(`turn ${id}: a call's result needs a status and a content`);
  }
  const attention = call.attention ? checkedAttention(call.attention) : null;
  const known = { name, arguments: text, confidence, sources, attention, edited: edited === true, result };
  return { id: typeof call.id === "string" ? call.id : `call_${newId()}`, ...known };
}

/** What a model looked at (see attention.js) from a file, or null where it is not what this page makes. */
function checkedAttention(given) {
  const count = (value) => Number.isInteger(value) && value >= 0;
  const share = (value) => Number.isFinite(value) && value >= 0 && value <= 1;
  const isWord = ({ turn, call, start, end, weight }) =>
    count(turn) && (call === null || count(call)) && count(start) && count(end) && start < end && share(weight);
  const isImage = ({ turn, image, rows, columns, weights }) =>
    count(turn) && count(image) && count(rows) && count(columns) && Array.isArray(weights) &&
    weights.length === rows * columns && weights.length > 0 && weights.every(share);
  try {
    const views = Object.entries(given).map(([name, { words, images }]) => {
      if (!words.every(isWord) || !images.every(isImage)) throw new TypeError(name);
      return [name, { words, images }];
    });
    return Object.fromEntries(views);
  } catch {
    return null;
  }
}
