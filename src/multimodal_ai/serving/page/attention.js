// What the model looked at while it wrote an argument: the words and image cells that `x_attention` names, as places
// of this conversation, so that they are found again when it is stored, exported, or goes on.
//
// A place is a turn by its number on the path, `call` where a call's result is meant, and for images which of the turn.

import { path, sentTurns } from "./conversation.js";

const SHOWN = 0.1; // of all it looked at; an image that got less is not worth a picture

/** Characters, as the server counts them, to places in a string of this language. */
function textPlaces(text) {
  const places = [0];
  for (const character of text) places.push(places.at(-1) + character.length);
  return places;
}

/** `x_attention` of a call in an answer to what was sent up to turn `until`; the system message is left out. */
export function attentionPlaces(given, conversation, until, system) {
  const sent = sentTurns(conversation, until, system);
  const views = Object.entries(given).map(([name, { words, images }]) => {
    const view = { words: [], images: [] };
    for (const { message, start, end, weight } of words) {
      const from = sent[message]; // undefined: what the server's own loop said meanwhile
      if (from?.turn === undefined || from.text === null) continue;
      const places = textPlaces(from.text);
      view.words.push({ turn: from.turn, call: from.call, start: places[start], end: places[end], weight });
    }
    for (const { message, part, rows, columns, weights } of images) {
      const from = sent[message];
      if (from?.turn !== undefined) view.images.push({ turn: from.turn, image: part, rows, columns, weights });
    }
    return [name, view];
  });
  return Object.fromEntries(views);
}

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** What an argument's view says of images: {share, image} of all of them, and the one that got most; null for none. */
export function imageShare(view) {
  const shares = (view?.images ?? []).map((image) => ({ image, share: sum(image.weights) }));
  if (!shares.length) return null;
  const most = shares.reduce((one, other) => (other.share > one.share ? other : one));
  const share = sum(shares.map((entry) => entry.share));
  return share >= SHOWN ? { share, image: most.image, of: shares.length } : null;
}

/** Where an image's brightest cell is, in words. */
export function brightest({ rows, columns, weights }) {
  const cell = weights.indexOf(Math.max(...weights));
  return `row ${Math.floor(cell / columns) + 1} of ${rows}, column ${(cell % columns) + 1} of ${columns}`;
}

/** Every argument on the path that looked at an image of a turn: {call, name, value, image}. */
export function looksAt(conversation, turn, number) {
  const found = [];
  for (const node of path(conversation)) {
    for (const call of node.calls ?? []) {
      if (!call.attention || call.edited) continue;
      const values = JSON.parse(call.arguments);
      for (const [name, view] of Object.entries(call.attention)) {
        const image = view.images.find((entry) => entry.turn === turn && entry.image === number);
        if (image && sum(image.weights) >= SHOWN) found.push({ call, name, value: values[name], image });
      }
    }
  }
  return found;
}
