// Where a value came from: in words, and lit up where it stands in the conversation.

import { imageShare } from "./attention.js";
import { byId } from "./dom.js";
import { heatMap } from "./picture.js";

const LEVELS = ["provenance", "provenance-weak", "provenance-faint"];
const ORIGINS = {
  user: "from your words",
  system: "from the system message",
  function_result: "from a function's result",
  function_description: "from the function's description",
  generated: "written by the model",
};

/** An argument's source in words; null where the server gave none. `view`: what it looked at, if that is known. */
export function inWords(source, view) {
  if (!source) return null;
  const looked = imageShare(view);
  if (source.origin === "generated" && looked && looked.share > 0.3) {
    const which = looked.of > 1 ? `image ${looked.image.image + 1}` : "the image";
    return `looked at ${which}, ${Math.round(looked.share * 100)}%`;
  }
  const copied = source.copied > 0 ? `, ${Math.round(source.copied * 100)}% copied` : "";
  return (ORIGINS[source.origin] ?? source.origin) + copied;
}

function leaves(value) {
  if (value === null || typeof value === "boolean") return [];
  if (typeof value === "object") return Object.values(value).flatMap(leaves);
  return [String(value)];
}

const isWord = (sign) => sign !== undefined && /[\p{L}\p{N}]/u.test(sign);

function* places(text, leaf) {
  const folded = text.toLowerCase();
  const wanted = leaf.toLowerCase();
  if (folded.length !== text.length || !wanted) return;
  for (let at = folded.indexOf(wanted); at >= 0; at = folded.indexOf(wanted, at + 1)) {
    const end = at + wanted.length;
    const begins = !(isWord(wanted[0]) && isWord(folded[at - 1]));
    if (begins && !(isWord(wanted.at(-1)) && isWord(folded[end]))) yield [at, end];
  }
}

/** The ranges of the page in which a value stands in what `origin` said. */
export function findValue(value, origin) {
  const ranges = [];
  for (const element of document.querySelectorAll(`[data-origin="${origin}"]`)) {
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      for (const leaf of leaves(value)) {
        for (const [begin, end] of places(walker.currentNode.data, leaf)) {
          const range = new Range();
          range.setStart(walker.currentNode, begin);
          range.setEnd(walker.currentNode, end);
          ranges.push(range);
        }
      }
    }
  }
  return ranges;
}

/** The ranges of the page that a view of attention names, with their weights. */
function findSeen({ words }) {
  const found = [];
  for (const { turn, call, start, end, weight } of words) {
    const article = byId("log").children[turn];
    const said = call === null ? article?.querySelector(":scope > .text") : article?.querySelectorAll(".card")[call]?.querySelector("pre");
    const text = said?.firstChild;
    if (text?.nodeType !== Node.TEXT_NODE || end > text.length) continue; // it is being edited
    const range = new Range();
    range.setStart(text, start);
    range.setEnd(text, end);
    found.push({ range, weight });
  }
  return found;
}

/** The small picture of an image of a turn. */
export function findThumbnail({ turn, image }) {
  return byId("log").children[turn]?.querySelectorAll(":scope > .images .thumbnail")[image];
}

/**
 * Light up what was looked at: words, the more of it they got the brighter, and heat maps over pictures. Returns where
 * the first of them is on the page, or undefined.
 */
export function lightSeen(view) {
  darken();
  const words = findSeen(view);
  const most = Math.max(...words.map(({ weight }) => weight));
  const level = (weight) => (weight > 0.4 * most ? "provenance" : weight > 0.1 * most ? "provenance-weak" : "provenance-faint");
  for (const { range, weight } of words) light(level(weight), [range]);
  const pictures = imageShare(view) ? view.images.map((image) => [findThumbnail(image), image]) : [];
  for (const [picture, image] of pictures) picture?.append(heatMap(image));
  const brightestWord = words.find(({ weight }) => weight === most)?.range.startContainer.parentElement;
  return (imageShare(view)?.share ?? 0) > 0.5 ? findThumbnail(imageShare(view).image) : brightestWord;
}

function light(level, ranges) {
  if (!CSS.highlights) return; // older browsers show no words
  CSS.highlights.set(level, new Highlight(...(CSS.highlights.get(level) ?? []), ...ranges));
}

/** Light ranges up, and nothing else. */
export function lightUp(ranges) {
  darken();
  light("provenance", ranges);
}

/** Put all lights out. */
export function darken() {
  for (const level of LEVELS) CSS.highlights?.delete(level);
  for (const map of byId("log").querySelectorAll(".heat")) map.remove();
}
