// Where a value came from: in words, and lit up where it stands in the conversation.

const ORIGINS = {
  user: "from your words",
  system: "from the system message",
  function_result: "from a function's result",
  function_description: "from the function's description",
  generated: "written by the model",
};

/** An argument's source in words; null where the server gave none. */
export function inWords(source) {
  if (!source) return null;
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

/** Light ranges up, and no others; an empty list puts the light out. Older browsers show nothing. */
export function lightUp(ranges) {
  if (!CSS.highlights) return;
  CSS.highlights.set("provenance", new Highlight(...ranges));
}
