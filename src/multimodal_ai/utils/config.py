"""Typed configuration: pydantic models read from YAML, with overrides from the command line.

A config model is frozen and knows every key it may hold, so a typing mistake is an error and never a
setting that silently keeps its default. Every error names the file (or the override), the dotted key and
what is allowed there. Nothing in here knows what a particular key means: that stands in the model next to
the code it configures.
"""

from __future__ import annotations

import difflib
import enum
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

C = TypeVar("C", bound="ConfigModel")
Key = str | int


class ConfigError(ValueError):
    """A configuration cannot be used; the message says where, why and what is allowed instead."""


class ConfigModel(BaseModel):
    """Base of all configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as people expect it: `1e-3` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, typing.Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f'key "{key}" is given twice', key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
            |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
            |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
            |[-+]?\.(?:inf|Inf|INF)
            |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


def load_config(cls: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file into `cls`, with `key.path=value` overrides laid over it.

    A value of an override is YAML (`1e-3`, `true`, `[0.9, 0.95]`, `{text: 1.0}`). Items of lists are
    reached by number (`mix.0.weight=2`), keys that hold a dot in quotes (`rules."text.blocks"=0`).

    Raises:
        ConfigError: one line for each mistake, naming file or override, dotted key and allowed values.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{_nearest_file(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    raw = _parse_yaml(text, str(path))
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, got {_describe(raw)}")
    return parse_config(cls, raw, overrides, where=str(path))


def parse_config(cls: type[C], raw: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "config") -> C:
    """Validate plain data (as YAML gives it) as `cls`; `where` is what errors call its source."""
    data = _copy(raw)
    origins: dict[tuple[Key, ...], str] = {}
    for override in overrides:
        keys, value = _parse_override(override)
        _set(cls, data, keys, value, f"--set {override}")
        origins[keys] = f"--set {override}"
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(cls, data, error, where, origins))) from None


def dump_config(config: ConfigModel, path: str | Path) -> None:
    """Write `config` as YAML that `load_config` reads back equal; written aside and renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        raise ConfigError(f"{place}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from None


_KEY = re.compile(r'"([^"]*)"|([^."=]+)')


def _parse_override(override: str) -> tuple[tuple[Key, ...], Any]:
    """Split `a.b=value` into the path of keys and the parsed value."""
    where = f"--set {override}"
    keys: list[Key] = []
    position = 0
    while True:
        match = _KEY.match(override, position)
        if match is None:
            break
        quoted, plain = match.groups()
        keys.append(quoted if plain is None else plain.strip())
        position = match.end()
        if position < len(override) and override[position] == ".":
            position += 1
        else:
            break
    if not keys or position >= len(override) or override[position] != "=":
        raise ConfigError(f"{where}: expected key=value, for example optimizer.lr=1e-3")
    return tuple(keys), _parse_yaml(override[position + 1 :], where)


def _set(cls: type[BaseModel], data: dict[str, Any], keys: tuple[Key, ...], value: Any, where: str) -> None:
    """Put `value` at the path, creating what lies between from the defaults; unknown paths are errors."""
    node: Any = data
    for depth, key in enumerate(keys):
        done, here = keys[:depth], _dotted(keys[: depth + 1])
        last = depth == len(keys) - 1
        if isinstance(node, list):
            if not str(key).isdigit() or int(key) >= len(node):
                raise ConfigError(f"{where}: {here}: expected an item number from 0 to {len(node) - 1}")
            index = int(key)
            if last:
                node[index] = value
            node = node[index]
            continue
        if not isinstance(node, dict):
            hint = " (the path of a file: set it there)" if isinstance(node, str) else ""
            raise ConfigError(
                f"{where}: {here}: unknown key; {_dotted(done)} is {_describe(node)}{hint} and has no keys"
            )
        models = list(_models_at(cls, done))
        if last:
            node[str(key)] = value
        else:
            if node.get(str(key)) is None:
                node[str(key)] = _default_at(models, str(key))
            node = node[str(key)]


def _default_at(models: list[type[BaseModel]], key: str) -> Any:
    """The default of a field as plain data, so that an override of one key keeps its siblings."""
    for model in models:
        field = model.model_fields.get(key)
        if field is None or field.is_required():
            continue
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            return default.model_dump()
        if isinstance(default, dict | list | tuple):
            return _copy(default)
    return {}


def _options(annotation: Any) -> Iterator[Any]:
    """The alternatives of a type: members of unions, without `Annotated`."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _options(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            yield from _options(option)
    else:
        yield annotation


def _types_at(cls: type[BaseModel], keys: Sequence[Key]) -> list[Any]:
    """All types that the value at the path may have, following models, dicts and lists."""
    current: list[Any] = [cls]
    for key in keys:
        following: list[Any] = []
        for annotation in current:
            origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
            if isinstance(annotation, type) and origin is None and issubclass(annotation, BaseModel):
                if key in annotation.model_fields:
                    following += _options(annotation.model_fields[str(key)].annotation)
            elif isinstance(origin, type) and issubclass(origin, Mapping) and len(arguments) == 2:
                following += _options(arguments[1])
            elif origin is tuple and arguments and str(key).isdigit():
                fixed = arguments[-1] is not Ellipsis
                index = min(int(key), len(arguments) - 1) if fixed else 0
                following += _options(arguments[index])
            elif isinstance(origin, type) and issubclass(origin, Sequence) and arguments:
                following += _options(arguments[0])
        current = following
    return current


def _models_at(cls: type[BaseModel], keys: Sequence[Key]) -> Iterator[type[BaseModel]]:
    for annotation in _types_at(cls, keys):
        plain = isinstance(annotation, type) and typing.get_origin(annotation) is None
        if plain and issubclass(annotation, BaseModel):
            yield annotation


def _explain(
    cls: type[BaseModel],
    data: dict[str, Any],
    error: ValidationError,
    where: str,
    origins: Mapping[tuple[Key, ...], str],
) -> list[str]:
    """One line for each mistake; of a union's branches only those that come closest are told."""
    found: dict[tuple[Key, ...], list[Any]] = {}
    for item in error.errors(include_url=False):
        found.setdefault(_keys_of(item, data), []).append(item)
    for keys in list(found):
        deeper = any(other != keys and other[: len(keys)] == keys for other in found)
        if deeper and all(item["type"].endswith("_type") for item in found[keys]):
            del found[keys]
    lines = []
    for keys, items in found.items():
        source = next((text for path, text in origins.items() if path == keys[: len(path)]), where)
        reasons = dict.fromkeys(_reason(cls, keys, item) for item in items)
        lines.append(
            f"{source}: {_dotted(keys)}: " + ", or ".join(reasons) if keys else f"{source}: " + ", or ".join(reasons)
        )
    return lines


def _keys_of(item: Any, data: Any) -> tuple[Key, ...]:
    """The path of keys of a pydantic error, without the names of union branches that pydantic puts in."""
    keys: list[Key] = []
    node = data
    location = item["loc"]
    for position, key in enumerate(location):
        final = position == len(location) - 1
        in_mapping = isinstance(node, Mapping) and key in node
        in_list = isinstance(node, list | tuple) and isinstance(key, int) and key < len(node)
        if in_mapping or in_list:
            node = node[key]
            keys.append(key)
        elif final and item["type"] == "missing":
            keys.append(key)
    return tuple(keys)


def _reason(cls: type[BaseModel], keys: tuple[Key, ...], item: Any) -> str:
    kind, value = item["type"], item["input"]
    if kind == "extra_forbidden":
        return _unknown_key(str(keys[-1]), list(_models_at(cls, keys[:-1])))
    if kind == "missing":
        return "is required and missing" + _expectation(_types_at(cls, keys))
    if kind in ("literal_error", "enum"):
        allowed = [str(option) for option in _choices(_types_at(cls, keys))]
        near = _did_you_mean(str(value), allowed)
        return f"{_describe(value)} is not allowed; allowed: {', '.join(allowed)}{near}"
    message = item["msg"]
    if kind in ("value_error", "assertion_error"):
        return message.split(", ", 1)[-1]
    if kind.endswith(("_type", "_parsing", "from_float", "finite_number")) and _types_at(cls, keys):
        return f"{_expectation(_types_at(cls, keys)).removeprefix('; ')}, got {_describe(value)}"
    message = message.removeprefix("Input ").replace("should be", "expected")
    return f"{message}, got {_describe(value)}"


def _unknown_key(key: str, models: list[type[BaseModel]]) -> str:
    allowed = list(dict.fromkeys(name for model in models for name in model.model_fields))
    if not allowed:
        return "unknown key; no keys are allowed here"
    return f"unknown key; allowed: {', '.join(allowed)}{_did_you_mean(key, allowed)}"


def _did_you_mean(key: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.5)
    return f'; did you mean "{near[0]}"?' if near else ""


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; the folder {path.parent} does not exist"
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml"))
    return _did_you_mean(path.name, names)


def _choices(annotations: Sequence[Any]) -> Iterator[Any]:
    for annotation in annotations:
        if typing.get_origin(annotation) is typing.Literal:
            yield from typing.get_args(annotation)
        elif isinstance(annotation, type) and issubclass(annotation, enum.Enum):
            yield from (member.value for member in annotation)


def _expectation(annotations: Sequence[Any]) -> str:
    names = [type_name(annotation) for annotation in annotations if annotation is not type(None)]
    return f"; expected {' or '.join(names)}" if names else ""


def type_name(annotation: Any) -> str:
    """A type as a person writes it: `list[float]`, `"adamw" or "muon"`, `OptimizerConfig`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return " ".join([type_name(arguments[0]), *limits(annotation.__metadata__)])
    if origin is typing.Literal:
        return " or ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(option) for option in arguments)
    if annotation is type(None):
        return "null"
    if annotation is Ellipsis:
        return "..."
    if origin is not None:
        return f"{origin.__name__}[{', '.join(type_name(argument) for argument in arguments)}]"
    return {"str": "text", "bool": "true or false", "Path": "path"}.get(
        getattr(annotation, "__name__", ""), getattr(annotation, "__name__", str(annotation))
    )


def limits(metadata: Iterable[object]) -> list[str]:
    """Constraints of a field, such as `>= 0` or `at most 3 items`, as its metadata holds them."""
    found = []
    for item in metadata:
        inner = getattr(item, "metadata", None)  # a pydantic Field inside Annotated
        if isinstance(inner, list):
            found += limits(inner)
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("multiple_of", "multiple of")):
            if getattr(item, name, None) is not None:
                found.append(f"{sign} {getattr(item, name)}")
        for name, words in (("min_length", "at least"), ("max_length", "at most")):
            if getattr(item, name, None) is not None:
                found.append(f"{words} {getattr(item, name)} items")
    return found


def _dotted(keys: Sequence[Key]) -> str:
    return ".".join(f'"{key}"' if "." in str(key) else str(key) for key in keys)


def _describe(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(map(str, value)) or '(none)'}"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _copy(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value
