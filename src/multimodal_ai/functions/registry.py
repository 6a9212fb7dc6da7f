"""Makes Python functions, pydantic models and raw schemas callable by a model.

Each becomes one FunctionSpec plus a way to run it. A function counts as having side effects unless it says
it has none, because a wrong guess the other way runs something nobody approved. Registering never runs a
function; loading a file runs the file, so load only files you trust.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import pydantic
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from multimodal_ai.functions.docstrings import parse_docstring
from multimodal_ai.functions.json_schema import SchemaError, check_schema, iter_subschemas
from multimodal_ai.functions.schema import FunctionSpec

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__multimodal_ai_function__"


@dataclass(frozen=True)
class FunctionOptions:
    """What a decorator says about a function. `timeout` in seconds, None for the policy's.

    `min_confidence`: a call of which the model is less sure is asked about, even if it could run unasked; None for the
    policy's, which is about side effects alone.
    """

    name: str | None = None
    description: str | None = None
    side_effect: bool | None = None
    read_only: bool | None = None
    timeout: float | None = None
    min_confidence: float | None = None

    def __post_init__(self) -> None:
        if self.side_effect and self.read_only:
            raise ValueError("a function cannot be read_only and have a side_effect; choose one")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout}; expected seconds above 0")
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence is {self.min_confidence}; expected a probability between 0 and 1")

    @property
    def has_side_effect(self) -> bool:
        """True unless the function is said to be read-only or without side effect."""
        if self.side_effect is not None:
            return self.side_effect
        return not self.read_only


@dataclass(frozen=True)
class RegisteredFunction:
    """A function that can be called with validated arguments.

    `origin` is `(kind, place, name)` with which another process finds it: kind "file" or "module". None when
    it has no place of its own (lambdas, functions inside functions). `remote`: another process does the work
    anyway, so that isolation has nothing to add. `server`: the MCP server it belongs to, as that calls itself.
    """

    spec: FunctionSpec
    target: Callable[..., Any]
    arguments_model: type[pydantic.BaseModel] | None = None
    whole_model: bool = False
    timeout: float | None = None
    read_only: bool = False
    origin: tuple[str, str, str] | None = None
    remote: bool = False
    min_confidence: float | None = None
    server: str = ""

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """Run the function. The arguments are copied, so it cannot change the caller's.

        They must have passed `validate_arguments`; conversion to the annotated types (enums, dates, nested
        models) may still raise pydantic.ValidationError. A coroutine function is run to its end.
        """
        values: dict[str, Any] = copy.deepcopy(dict(arguments))
        if self.arguments_model is not None:
            model = self.arguments_model.model_validate(values)
            if self.whole_model:
                return _finish(self.target(model))
            fields = type(model).model_fields
            values = {name: getattr(model, name) for name in model.model_fields_set if name in fields}
            values = {fields[name].alias or name: value for name, value in values.items()}
        return _finish(self.target(**values))


class FunctionRegistry:
    """The functions a model may call, in the order they were added."""

    def __init__(self) -> None:
        self._functions: dict[str, RegisteredFunction] = {}

    @overload
    def function(self, target: F, /) -> F: ...
    @overload
    def function(
        self,
        /,
        *,
        side_effect: bool | None = None,
        read_only: bool | None = None,
        timeout: float | None = None,
        min_confidence: float | None = None,
        name: str | None = None,
        description: str | None = None,
    ) -> Callable[[F], F]: ...
    def function(self, target: Any = None, /, **options: Any) -> Any:
        """Decorator that adds a function; options as in `FunctionOptions`. The function stays as it is."""

        def add(decorated: F) -> F:
            self.add(decorated, **options)
            return decorated

        return add if target is None else add(target)

    def add(
        self,
        target: Any,
        call: Callable[..., Any] | None = None,
        **options: Any,
    ) -> RegisteredFunction:
        """Add a typed function, a pydantic model, or a schema with the callable that does the work.

        `target` may be a function (its annotations and docstring make the schema); a pydantic model class,
        with `call` taking one instance, or with a method `__call__`; a FunctionSpec or a tool dict, with
        `call` taking the arguments by name; or a RegisteredFunction. Raises SchemaError when no schema can
        be made, ValueError when the name is taken.
        """
        if isinstance(target, RegisteredFunction):
            registered = target
        elif isinstance(target, type) and issubclass(target, pydantic.BaseModel):
            registered = _from_model(target, call, _options(target, options))
        elif isinstance(target, (FunctionSpec, Mapping)):
            registered = _from_schema(target, call, options)
        elif callable(target):
            if call is not None:
                raise ValueError("call= goes with a schema or a model; a function is its own callable")
            registered = _from_function(target, _options(target, options))
        else:
            raise SchemaError(f"{target!r}: expected a function, a pydantic model or a schema with call=")
        name = registered.spec.name
        check_schema(registered.spec.parameters, f"function {name}: parameters")
        if name in self._functions:
            raise ValueError(f"a function called {name!r} is already registered; give one of them name=")
        self._functions[name] = registered
        return registered

    @property
    def specs(self) -> tuple[FunctionSpec, ...]:
        """What the model is shown."""
        return tuple(registered.spec for registered in self._functions.values())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._functions)

    def get(self, name: str) -> RegisteredFunction | None:
        return self._functions.get(name)

    def __iter__(self) -> Iterator[RegisteredFunction]:
        return iter(self._functions.values())

    def __len__(self) -> int:
        return len(self._functions)

    def __contains__(self, name: object) -> bool:
        return name in self._functions


@overload
def function(target: F, /) -> F: ...
@overload
def function(
    *,
    side_effect: bool | None = None,
    read_only: bool | None = None,
    timeout: float | None = None,
    min_confidence: float | None = None,
    name: str | None = None,
    description: str | None = None,
) -> Callable[[F], F]: ...
def function(target: Any = None, /, **options: Any) -> Any:
    """Mark a function of a file for `load_functions`; options as in `FunctionOptions`.

    Once one function of a file is marked, only the marked ones are offered.
    """
    chosen = FunctionOptions(**options)

    def mark(decorated: F) -> F:
        setattr(decorated, _MARK, chosen)
        return decorated

    return mark if target is None else mark(target)


def load_functions(path: str | Path) -> FunctionRegistry:
    """Run a Python file and offer its functions: those marked with `function`, else every public one.

    Raises FileNotFoundError, or ValueError that says which line of the file failed or that it holds no
    functions. The file is code: load only what you trust.
    """
    path = Path(path).expanduser().resolve()
    module = load_module(path)
    members = [value for name, value in vars(module).items() if not name.startswith("_")]
    own = [
        value
        for value in members
        if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__
    ]
    chosen = [value for value in own if hasattr(value, _MARK)] or [v for v in own if inspect.isfunction(v)]
    if not chosen:
        raise ValueError(f"{path}: no functions found; define one with typed parameters and a docstring")
    registry = FunctionRegistry()
    for value in chosen:
        try:
            registry.add(value)
        except ValueError as error:
            line = inspect.getsourcelines(value)[1]
            raise ValueError(f"{path}, line {line}: {error}") from None
    return registry


def load_module(path: Path) -> Any:
    """Import a Python file under a name of its own; importing the same file again gives the same module."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a Python file with functions")
    name = f"multimodal_ai_functions_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or path.suffix != ".py":
        raise ValueError(f"{path}: not a Python file; its name should end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        trace = error.__traceback__
        lines = []
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == str(path):
                lines.append(trace.tb_lineno)
            trace = trace.tb_next
        line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else 1)
        raise ValueError(f"{path}, line {line}: {type(error).__name__}: {error}") from error
    return module


def _options(target: Any, options: Mapping[str, Any]) -> FunctionOptions:
    marked = getattr(target, _MARK, FunctionOptions())
    given = {key: value for key, value in options.items() if value is not None}
    try:
        return FunctionOptions(**{**vars(marked), **given})
    except TypeError:
        known = ", ".join(vars(FunctionOptions()))
        raise ValueError(f"options {', '.join(options)}: expected some of {known}") from None


def _from_function(target: Callable[..., Any], options: FunctionOptions) -> RegisteredFunction:
    name = str(options.name or getattr(target, "__name__", type(target).__name__))
    signature = inspect.signature(target)
    try:
        hints = typing.get_type_hints(target, include_extras=True)
    except Exception as error:
        raise SchemaError(f"function {name}: an annotation cannot be read: {error}") from None
    description, documented = parse_docstring(inspect.getdoc(target))
    fields: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise SchemaError(f"function {name}: parameter {parameter}: expected one that is given by name")
        if parameter.name not in hints:
            raise SchemaError(f"function {name}: parameter {parameter.name} has no type; annotate it")
        annotated = pydantic.fields.FieldInfo.from_annotation(hints[parameter.name]).description
        info = pydantic.Field(
            ... if parameter.default is parameter.empty else parameter.default,
            alias=parameter.name,
            description=annotated or documented.get(parameter.name),
        )
        # pydantic keeps some names (model_config, names with a leading underscore) for itself
        fields[f"argument_{len(fields)}"] = (hints[parameter.name], info)
    try:
        model = pydantic.create_model(
            f"{name}_arguments",
            __config__=pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=False),
            **fields,
        )
        parameters = model_schema(model)
    except (pydantic.errors.PydanticUserError, pydantic.errors.PydanticInvalidForJsonSchema) as error:
        reason = str(error).splitlines()[0]
        raise SchemaError(f"function {name}: a parameter has a type that JSON cannot hold: {reason}") from None
    return RegisteredFunction(
        spec=FunctionSpec(
            name, options.description or description or _words(name), parameters, options.has_side_effect
        ),
        target=target,
        arguments_model=model,
        timeout=options.timeout,
        read_only=not options.has_side_effect,
        origin=_origin(target),
        min_confidence=options.min_confidence,
    )


def _from_model(
    model: type[pydantic.BaseModel], call: Callable[..., Any] | None, options: FunctionOptions
) -> RegisteredFunction:
    name = options.name or model.__name__
    if call is None:
        if not any("__call__" in vars(base) for base in model.__mro__):
            raise ValueError(f"model {name}: give call= a function of one {name}, or the class a __call__ method")
        call = _call_instance
    description, documented = parse_docstring(model.__doc__)
    parameters = model_schema(model)
    for key, text in documented.items():
        if key in parameters.get("properties", {}):
            parameters["properties"][key].setdefault("description", text)
    parameters.pop("description", None)
    return RegisteredFunction(
        spec=FunctionSpec(
            name, options.description or description or _words(name), parameters, options.has_side_effect
        ),
        target=call,
        arguments_model=model,
        whole_model=True,
        timeout=options.timeout,
        read_only=not options.has_side_effect,
        min_confidence=options.min_confidence,
    )


def _from_schema(
    tool: FunctionSpec | Mapping[str, Any], call: Callable[..., Any] | None, options: Mapping[str, Any]
) -> RegisteredFunction:
    spec = FunctionSpec.from_tool(tool)
    if call is None:
        raise ValueError(f"function {spec.name}: a schema needs call=, the callable that does the work")
    chosen = _options(None, options)
    stated = isinstance(tool, FunctionSpec) or any(
        key in holder for holder in (tool, tool.get("function", {})) for key in ("side_effect", "x-side-effect")
    )
    said = chosen.side_effect is not None or chosen.read_only is not None
    side_effect = spec.side_effect if stated and not said else chosen.has_side_effect
    spec = FunctionSpec(chosen.name or spec.name, chosen.description or spec.description, spec.parameters, side_effect)
    return RegisteredFunction(
        spec=spec,
        target=call,
        timeout=chosen.timeout,
        read_only=not side_effect,
        origin=_origin(call),
        min_confidence=chosen.min_confidence,
    )


class _PlainNumbers(GenerateJsonSchema):
    """Decimals as numbers: pydantic's own form is a number or a string under a pattern with look-ahead."""

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        return {"type": "number"}


def model_schema(model: type[pydantic.BaseModel]) -> dict[str, Any]:
    """A model's JSON Schema as a function's parameters: no titles, `X | None = None` simply optional."""
    schema = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_PlainNumbers)
    for _, node in list(iter_subschemas(schema)):
        if not isinstance(node, dict):
            continue
        if isinstance(node.get("title"), str):
            del node["title"]
        branches = node.get("anyOf")
        if node.get("type") == "number" and isinstance(node.get("default"), str):
            node["default"] = float(node["default"])
        if "default" in node and node["default"] is None:
            del node["default"]
            if isinstance(branches, list):
                kept = [branch for branch in branches if branch != {"type": "null"}]
                if len(kept) == 1 and len(kept) < len(branches):
                    del node["anyOf"]
                    node.update({**kept[0], **node})
                elif kept:
                    node["anyOf"] = kept
    if schema.get("additionalProperties") is False:
        del schema["additionalProperties"]  # a function's parameters are closed anyway
    return schema


def _call_instance(instance: Any) -> Any:
    return instance()


def _origin(target: Any) -> tuple[str, str, str] | None:
    name = getattr(target, "__qualname__", "")
    module = getattr(target, "__module__", None)
    if not module or not name or "<" in name or "." in name:
        return None
    file = getattr(sys.modules.get(module), "__file__", None)
    if module.startswith("multimodal_ai_functions_") or module == "__main__":
        return ("file", str(Path(file).resolve()), name) if file else None
    return ("module", module, name)


def _finish(result: Any) -> Any:
    if inspect.iscoroutine(result):
        import asyncio

        return asyncio.run(result)
    return result


def _words(name: str) -> str:
    return name.replace("_", " ").replace("-", " ").strip()
