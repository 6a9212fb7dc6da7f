"""What a request may ask for: which functions may be called, and what form an answer in text must have.

The accepted spellings of `tool_choice` and `response_format`, reduced to one form each. It knows nothing of grammars
and tokens; what is misspelt is an error, never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multimodal_ai.functions.canonical import parse_json, short_json
from multimodal_ai.functions.schema import FunctionSpec, validate_value

ToolChoice = str | Mapping[str, Any]


class GrammarError(ValueError):
    """Functions or a choice that no grammar can be made from, or a token the grammar forbids."""


@dataclass(frozen=True)
class Choice:
    """A tool_choice in one form: "auto", "none" or "required", and the names that may be called.

    `single`: exactly one call, whatever `parallel` says (a named choice).
    """

    mode: str
    names: tuple[str, ...]
    single: bool = False


def normalize_tool_choice(choice: ToolChoice | Choice, functions: Sequence[FunctionSpec]) -> Choice:
    """Reduce the accepted spellings to a Choice, or raise GrammarError.

    "auto", "none", "required"; a name as `{"name": …}` or in the chat-completions form; a subset as
    `{"type": "allowed_tools", "allowed_tools": {"mode": "auto" or "required", "tools": [a name's form, …]}}`.
    """
    if isinstance(choice, Choice):
        return choice
    known = tuple(spec.name for spec in functions)
    single = False
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        inner = choice.get("allowed_tools", choice)
        tools = inner.get("tools") if isinstance(inner, Mapping) else None
        if not isinstance(tools, (list, tuple)) or not tools:
            raise GrammarError(
                "tool_choice allowed_tools: expected a list of tools with at least one; use none for none"
            )
        wanted = {_named(tool, known) for tool in tools}
        names = tuple(name for name in known if name in wanted)
        mode = inner.get("mode", "auto")
        if mode not in ("auto", "required"):
            raise GrammarError(f"tool_choice allowed_tools: mode {mode!r}; expected auto or required")
    elif isinstance(choice, Mapping):
        mode, names, single = "required", (_named(choice, known),), True
    elif choice in ("auto", "none", "required"):
        mode, names = str(choice), known
    else:
        raise GrammarError(f"tool_choice {choice!r}: expected auto, none, required or {{'name': …}}")
    if mode == "required" and not known:
        raise GrammarError("tool_choice is required but no functions are given; give some or use auto")
    return Choice(mode, names, single) if names and mode != "none" else Choice("none", ())


def _named(choice: Any, known: Sequence[str]) -> str:
    inner = choice.get("function", choice) if isinstance(choice, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if name not in known:
        raise GrammarError(
            f"tool_choice names {name!r}; expected one of the functions given: {', '.join(known) or 'none'}"
        )
    return str(name)


def response_schema(response_format: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The JSON Schema that an answer in text must fit, None for free text. Raises GrammarError.

    The chat-completions form: `{"type": "text"}`, `{"type": "json_object"}`, or `{"type": "json_schema",
    "json_schema": {"schema": {…}}}`.
    """
    kind = response_format.get("type") if isinstance(response_format, Mapping) else response_format
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return {"type": "object", "additionalProperties": True}
    inner = response_format.get("json_schema") if isinstance(response_format, Mapping) else None
    if kind != "json_schema" or not isinstance(inner, Mapping) or not isinstance(inner.get("schema"), Mapping):
        raise GrammarError(
            f"response_format {short_json(response_format)}: expected type text, json_object, or json_schema with "
            "json_schema: {schema: …}"
        )
    return dict(inner["schema"])


def format_errors(content: str, response_format: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What of a response format a finished answer breaks, in words; empty where it fits."""
    schema = response_schema(response_format)
    if schema is None:
        return ()
    try:
        return tuple(str(error) for error in validate_value(parse_json(content), schema))
    except ValueError as error:
        return (str(error),)
