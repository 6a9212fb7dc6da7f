// Arguments of a call while they arrive, and checked once they are whole.

import { Validator } from "./vendor/cfworker-json-schema-4.1.6/validator.js";

/** The pairs of a JSON object's beginning: [name, the text of its value], the last value perhaps cut. */
export function partialArguments(text) {
  const pairs = [];
  let depth = 0;
  let quoted = false;
  let name = null; // of the pair whose value is being read
  let begin = 0; // of that value, or of the name before it
  const close = (end) => {
    if (name !== null) pairs.push([name, text.slice(begin, end).trim()]);
    name = null;
    begin = end + 1;
  };
  for (let at = 0; at < text.length; at++) {
    const sign = text[at];
    if (quoted) {
      if (sign === "\\") at++;
      else if (sign === '"') quoted = false;
    } else if (sign === '"') quoted = true;
    else if (sign === "{" || sign === "[") {
      if (++depth === 1) begin = at + 1;
    } else if (sign === "}" || sign === "]") {
      if (--depth === 0) close(at);
    } else if (depth === 1 && sign === ",") close(at);
    else if (depth === 1 && sign === ":" && name === null) {
      name = JSON.parse(text.slice(begin, at));
      begin = at + 1;
    }
  }
  close(text.length);
  return pairs;
}

/** What is wrong with arguments, in words; empty where they fit. `parameters`: the function's schema, if known. */
export function argumentErrors(text, parameters) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return [`Not JSON: ${error.message}`];
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return ["Expected an object: {…}"];
  if (!parameters) return [];
  try {
    const { errors } = new Validator(parameters, "2020-12", false).validate(value);
    const deepest = errors.filter((error) => !["properties", "items", "$ref"].includes(error.keyword));
    return deepest.map((error) => `${error.instanceLocation.replace(/^#\/?/, "") || "arguments"}: ${error.error}`);
  } catch (error) {
    return [`The schema cannot be checked here: ${error.message}`];
  }
}
