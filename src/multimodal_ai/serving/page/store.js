// What this browser keeps: conversations in IndexedDB, settings in localStorage. Nothing leaves it but by export.

import { checked } from "./conversation.js";

const FORMAT = "multimodal_ai conversations";

let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("multimodal_ai", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function run(mode, work) {
  const transaction = (await database()).transaction("conversations", mode);
  const request = work(transaction.objectStore("conversations"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/** All conversations, the last changed first. */
export async function loadAll() {
  const all = await run("readonly", (store) => store.getAll());
  return all.sort((one, other) => other.changed - one.changed);
}

export const save = (conversation) => run("readwrite", (store) => store.put(conversation));
export const remove = (id) => run("readwrite", (store) => store.delete(id));

/** Conversations as the text of a file. */
export function exported(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

/** The conversations of a file's text, under new identities. Throws an Error that says what is wrong. */
export function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch (error) {
    throw new Error(`not JSON: ${error.message}`);
  }
  if (file?.format !== FORMAT || file.version !== 1 || !Array.isArray(file.conversations)) {
    throw new Error("not a file that this page exported");
  }
  return file.conversations.map((conversation, index) => checked(conversation, `conversation ${index + 1}`));
}

const DEFAULTS = {
  key: "",
  system: "",
  temperature: "",
  topP: "",
  maxTokens: "",
  theme: "system",
  attention: true,
  toolChoice: "auto",
  execute: false,
  functions: [], // pasted ones: {tool, enabled}
  disabled: [], // names of the server's functions that are not offered
};

/** The settings; a change is kept with `saveSettings`. */
export function loadSettings() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem("settings") ?? "{}") };
  } catch {
    return { ...DEFAULTS };
  }
}

export function saveSettings(settings) {
  localStorage.setItem("settings", JSON.stringify(settings));
}
