// The functions that a chat offers: the server's own and pasted ones, each on or off.

import { complete } from "./api.js";
import { announce, button, byId, h, iconButton } from "./dom.js";
import { saveSettings } from "./store.js";

const EXAMPLE = {
  name: "log_reading",
  description: "Store the reading of a meter",
  parameters: {
    type: "object",
    properties: {
      meter: { type: "string", description: "which meter" },
      value: { type: "integer", description: "what it shows" },
    },
    required: ["meter", "value"],
  },
};

/** The tools in a pasted text: one function or a list, bare or in the API's form. Throws an Error in words. */
export function parseTools(text) {
  let given;
  try {
    given = JSON.parse(text);
  } catch (error) {
    throw new Error(`Not JSON: ${error.message}`);
  }
  const list = Array.isArray(given) ? given : [given];
  if (!list.length) throw new Error("The list is empty: paste at least one function.");
  return list.map((entry, index) => {
    const place = list.length > 1 ? `Function ${index + 1}: ` : "";
    const inner = entry?.function ?? entry;
    if (typeof inner?.name !== "string") throw new Error(`${place}expected an object with a "name" and "parameters".`);
    if (inner.parameters !== undefined && (typeof inner.parameters !== "object" || inner.parameters === null)) {
      throw new Error(`${place}"parameters" must be a JSON Schema, an object.`);
    }
    return { type: "function", function: inner };
  });
}

export class FunctionsPanel {
  /** settings: of the store. connection: `model`, with the server's own functions, or null. */
  constructor(settings, connection, changed) {
    Object.assign(this, { settings, connection, changed });
    this.groups = byId("function-groups");
    this.text = byId("function-text");
    this.errors = byId("function-errors");
    byId("function-add").addEventListener("click", () => this.#add());
    byId("function-example").addEventListener("click", () => {
      this.text.value = JSON.stringify(EXAMPLE, null, 2);
      this.text.focus();
    });
    byId("execute").addEventListener("change", (event) => {
      settings.execute = event.target.checked;
      this.#save();
    });
    byId("tool-choice").addEventListener("change", (event) => {
      settings.toolChoice = event.target.value;
      this.#save();
    });
    this.render();
  }

  get #served() {
    return this.connection.model?.x_functions ?? [];
  }

  /** Whether the server runs its own functions itself. */
  get execute() {
    return this.settings.execute && this.#served.length > 0;
  }

  /** The tools that are offered to the model; all of the server's, and no others, where it runs them. */
  get tools() {
    if (this.execute) return this.#served;
    const served = this.#served.filter((tool) => !this.settings.disabled.includes(tool.function.name));
    const own = this.settings.functions.filter(({ enabled }) => enabled).map(({ tool }) => tool);
    return [...served, ...own];
  }

  /** `tool_choice` as the API takes it. */
  get toolChoice() {
    const choice = this.settings.toolChoice;
    if (["auto", "none", "required"].includes(choice)) return choice;
    return { type: "function", function: { name: choice } };
  }

  /** A function's schema; undefined where it is not known. */
  parameters(name) {
    const all = [...this.#served, ...this.settings.functions.map(({ tool }) => tool)];
    return all.find((tool) => tool.function.name === name)?.function.parameters;
  }

  /** Whether the server has a function of this name. */
  served(name) {
    return this.#served.some((tool) => tool.function.name === name);
  }

  #save() {
    saveSettings(this.settings);
    this.render();
    this.changed();
  }

  render() {
    const { settings } = this;
    const rows = new Map(); // by the heading they stand under
    const put = (heading, row) => rows.set(heading, [...(rows.get(heading) ?? []), row]);
    for (const entry of settings.functions) put("Pasted here", this.#ownRow(entry));
    for (const tool of this.#served) put(tool.x_server ? `MCP server ${tool.x_server}` : "The server's own", this.#servedRow(tool));
    const groups = [...rows].map(([heading, items]) => [h("h3", {}, heading), h("ul", { "aria-label": heading }, items)]);
    const held = this.groups.contains(document.activeElement) ? document.activeElement.dataset.function : null;
    this.groups.replaceChildren(...(groups.length ? groups.flat() : [h("p", { class: "quiet" }, "No functions yet.")]));
    if (held) this.groups.querySelector(`[data-function="${CSS.escape(held)}"]`)?.focus();
    byId("execute").checked = settings.execute;
    byId("execute-row").hidden = !this.#served.length;
    const names = this.tools.map((tool) => tool.function.name);
    const known = [...names, "auto", "none", "required"].includes(settings.toolChoice);
    if (this.connection.model && !known) settings.toolChoice = "auto";
    const choices = [["auto", "when it sees fit"], ["required", "always"], ["none", "never"]];
    const options = [...choices, ...names.map((name) => [name, `always ${name}`])];
    byId("tool-choice").replaceChildren(...options.map(([value, words]) => h("option", { value }, words)));
    byId("tool-choice").value = settings.toolChoice;
  }

  #servedRow(tool) {
    const { settings } = this;
    const { name } = tool.function;
    const toggle = (on) => {
      settings.disabled = settings.disabled.filter((other) => other !== name);
      if (!on) settings.disabled.push(name);
      this.#save();
    };
    return this.#row(tool, !settings.disabled.includes(name), toggle, null);
  }

  #ownRow(entry) {
    const { settings } = this;
    const toggle = (on) => {
      entry.enabled = on;
      this.#save();
    };
    const remove = () => {
      settings.functions = settings.functions.filter((other) => other !== entry);
      this.#save();
      this.text.focus();
    };
    return this.#row(entry.tool, entry.enabled, toggle, remove);
  }

  #row(tool, enabled, toggle, remove) {
    const { name, description, parameters } = tool.function;
    const fixed = this.execute;
    const onchange = (event) => toggle(event.target.checked);
    const box = h("input", { type: "checkbox", "data-function": name, checked: fixed ? !remove : enabled, disabled: fixed, onchange });
    const changes = tool.function["x-side-effect"] ? h("span", { class: "tag" }, "changes something") : null;
    const schema = h("pre", { tabindex: "0" }, JSON.stringify(parameters ?? {}, null, 2));
    return h(
      "li",
      {},
      h("div", { class: "row" }, h("label", {}, box, " ", h("code", {}, name)), changes, remove && iconButton("✕", `Remove ${name}`, remove)),
      description ? h("p", { class: "quiet" }, description) : null,
      h("details", {}, h("summary", {}, "Schema"), schema),
    );
  }

  async #add() {
    this.errors.replaceChildren();
    const fail = (words) => this.errors.replaceChildren(h("li", {}, words));
    let tools;
    try {
      tools = parseTools(this.text.value);
    } catch (error) {
      return fail(error.message);
    }
    const taken = tools.find((tool) => this.served(tool.function.name));
    if (taken) return fail(`The server has a function ${taken.function.name}; give yours another name.`);
    try {
      await this.#check(tools);
    } catch (error) {
      return fail(error.message);
    }
    for (const tool of tools) {
      const { functions } = this.settings;
      const place = functions.findIndex((other) => other.tool.function.name === tool.function.name);
      if (place >= 0) functions[place] = { tool, enabled: true };
      else functions.push({ tool, enabled: true });
    }
    this.text.value = "";
    this.#save();
    announce(tools.length === 1 ? `${tools[0].function.name} is offered to the model` : `${tools.length} functions added`);
  }

  /** Let the server judge: one token for each function, in which its parameters are the format of the answer. */
  async #check(tools) {
    for (const tool of tools) {
      const { name, parameters } = tool.function;
      const schema = { type: "object", ...parameters };
      const body = {
        model: this.connection.model?.id ?? "",
        messages: [{ role: "user", content: "hi" }],
        tools: [tool],
        tool_choice: "none",
        response_format: { type: "json_schema", json_schema: { name: "parameters", schema } },
        max_tokens: 1,
      };
      try {
        await complete(body, this.settings.key);
      } catch (error) {
        throw new Error(error.message.replace("response_format", `${name}, parameters`));
      }
    }
  }
}
