// Settings: how answers are made, the key, and how the page looks. Empty fields leave the choice to the server.

import { byId } from "./dom.js";
import { saveSettings } from "./store.js";

const FIELDS = {
  system: "system",
  temperature: "temperature",
  "top-p": "topP",
  "max-tokens": "maxTokens",
  attention: "attention",
  key: "key",
  theme: "theme",
};

/** Put a colour scheme into force. */
function applyTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

/** Fill the form and keep what is entered; `changed(name)` is called after it. */
export function bindSettings(settings, changed) {
  for (const [id, name] of Object.entries(FIELDS)) {
    const field = byId(id);
    const value = field.type === "checkbox" ? "checked" : "value";
    field[value] = settings[name];
    field.addEventListener("change", () => {
      if (!field.reportValidity()) return;
      settings[name] = field[value];
      saveSettings(settings);
      applyTheme(settings.theme);
      changed(name);
    });
  }
  applyTheme(settings.theme);
}

/** The sampling fields of a request. */
export function sampling(settings) {
  const fields = { temperature: settings.temperature, top_p: settings.topP, max_tokens: settings.maxTokens };
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== "").map(([name, value]) => [name, Number(value)]));
}
