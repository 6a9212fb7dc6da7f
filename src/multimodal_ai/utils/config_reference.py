"""The configuration reference, generated from the config models themselves.

One table for each model, with the type, default and description of every key; models that a field refers to
follow below the first that names them. Nothing is written by hand here, so the page cannot disagree with
the code; a test holds the file in `docs/` against what this module makes.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from multimodal_ai.utils.config import limits, type_name

HEAD = """# Configuration reference

Generated from the configuration models by `python scripts/config_reference.py`; do not edit by hand.

Every key below may stand in a YAML file given by `--config`, and may be set from the command line by its
dotted path, for example `--set optimizer.lr=1e-3`. An unknown key or a value of another type is an error.
"""


def config_reference(classes: Sequence[type[BaseModel]]) -> str:
    """Markdown with one table for each of `classes` and every model they refer to, each once."""
    queue, seen = list(classes), set(classes)
    sections = [HEAD]
    while queue:
        model = queue.pop(0)
        sections.append(_section(model))
        below = [other for other in _referred(model) if other not in seen]
        seen.update(below)
        queue = below + queue
    return "\n".join(sections)


def _section(model: type[BaseModel]) -> str:
    own_doc = model.__dict__.get("__doc__")
    text = inspect.cleandoc(own_doc) if own_doc else ""
    lines = [f"## {model.__name__}", ""]
    if text:
        lines += [text, ""]
    if not model.model_fields:
        return "\n".join([*lines, "No keys.", ""])
    comments = _comments(model)
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        meaning = field.description or comments.get(name, "")
        cells = (f"`{name}`", _linked_type(field), _default(field), meaning)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _comments(model: type[BaseModel]) -> dict[str, str]:
    """What stands as a comment behind a field, for fields without a description."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base.model_fields:
            with contextlib.suppress(OSError):
                found.update(re.findall(r"^    (\w+): [^#\n]*[^#\s]  # (.+)$", inspect.getsource(base), re.MULTILINE))
    return found


def _linked_type(field: FieldInfo) -> str:
    text = type_name(field.annotation)
    for model in sorted(set(_models_in(field.annotation)), key=lambda item: -len(item.__name__)):
        text = text.replace(model.__name__, f"[{model.__name__}](#{model.__name__.lower()})", 1)
    return ", ".join([text, *limits(field.metadata)])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return f"`{_plain(value)}`" if not isinstance(value, BaseModel) else _model_default(value)


def _model_default(value: BaseModel) -> str:
    """What a nested model's default sets beyond that model's own defaults."""
    changed = value.model_dump(mode="json", exclude_defaults=True)
    return f"`{json.dumps(changed)}`" if changed else "its defaults"


def _plain(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    return json.dumps(value, default=_jsonable, ensure_ascii=False)


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    return list(value) if isinstance(value, tuple | set | frozenset) else str(value)


def _referred(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [other for field in model.model_fields.values() for other in _models_in(field.annotation)]
    return list(dict.fromkeys(found))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    origin = typing.get_origin(annotation)
    if origin is not None or isinstance(annotation, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _models_in(argument)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
