"""Functions, models and schemas become specs; files of functions are loaded."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest

from multimodal_ai.functions import (
    FunctionRegistry,
    FunctionSpec,
    SchemaError,
    canonical_arguments,
    load_functions,
    validate_arguments,
)
from multimodal_ai.functions.docstrings import parse_docstring


class Unit(enum.Enum):
    KWH = "kWh"
    LITRE = "L"


class Address(pydantic.BaseModel):
    """Where somebody lives."""

    title: str
    zip: str = pydantic.Field(description="Zip code.", max_length=10)
    parent: Address | None = None


class Thing:
    """No type of JSON."""


def everything(
    text: str,
    whole: int,
    unit: Unit,
    address: Address,
    choice: Literal["x", "y"] = "x",
    rate: float | None = None,
    day: datetime.date | None = None,
    amount: decimal.Decimal = decimal.Decimal("1.5"),
    names: list[str] | None = None,
    table: dict[str, float] | None = None,
    model_config: Annotated[int, pydantic.Field(ge=1, description="Annotated.")] = 3,
) -> tuple[Any, ...]:
    """Do everything.

    Args:
        text: The text.
        whole (int): A whole number,
            on two lines.
        model_config: Not this one.

    Returns:
        Everything.
    """
    return (text, whole, unit, address, choice, rate, day, amount, names, table, model_config)


def no_titles(node: Any, in_properties: bool = False) -> bool:
    if isinstance(node, dict):
        own = in_properties or not isinstance(node.get("title"), str)
        return own and all(no_titles(item, key == "properties") for key, item in node.items())
    return True


def test_a_typed_function_becomes_a_schema() -> None:
    registry = FunctionRegistry()
    spec = registry.add(everything, read_only=True).spec
    assert spec.description == "Do everything." and not spec.side_effect
    assert spec.required == ("text", "whole", "unit", "address")
    properties = spec.parameters["properties"]
    assert properties["text"] == {"type": "string", "description": "The text."}
    assert properties["whole"]["description"] == "A whole number, on two lines."
    assert properties["choice"] == {"default": "x", "enum": ["x", "y"], "type": "string"}
    assert properties["rate"] == {"type": "number"}, "an optional value is left out, not null"
    assert properties["day"] == {"type": "string", "format": "date"}
    assert properties["amount"] == {"type": "number", "default": 1.5}
    assert properties["names"] == {"type": "array", "items": {"type": "string"}}
    assert properties["model_config"] == {
        "type": "integer",
        "minimum": 1,
        "default": 3,
        "description": "Annotated.",
    }
    assert spec.parameter_schema("unit")["enum"] == ["kWh", "L"]
    assert spec.parameter_schema("address")["properties"]["zip"]["description"] == "Zip code."
    assert no_titles(spec.parameters) and "title" in spec.parameter_schema("address")["properties"]


def test_arguments_arrive_in_the_annotated_types() -> None:
    registered = FunctionRegistry().add(everything)
    arguments = canonical_arguments(
        registered.spec,
        '{"text":"020","whole":5,"unit":"L","day":"2024-02-29","address":{"title":"a","zip":"1"},"table":{"k":1}}',
    )
    assert validate_arguments(registered.spec, arguments) == []
    result = registered.call(arguments)
    assert result[:3] == ("020", 5, Unit.LITRE)
    assert result[3] == Address(title="a", zip="1") and result[6] == datetime.date(2024, 2, 29)
    assert result[4:6] == ("x", None) and result[7] == decimal.Decimal("1.5") and result[9] == {"k": 1.0}


def test_side_effects_are_assumed_unless_denied() -> None:
    registry = FunctionRegistry()

    @registry.function
    def plain() -> None:
        """Nothing is known of it."""

    @registry.function(read_only=True, timeout=2.5)
    def look() -> None:
        """It looks."""

    @registry.function(side_effect=False, name="other", description="Said here.")
    def harmless() -> None:
        """It does nothing."""

    kinds = {item.spec.name: (item.spec.side_effect, item.read_only, item.timeout) for item in registry}
    assert kinds == {"plain": (True, False, None), "look": (False, True, 2.5), "other": (False, True, None)}
    assert registry.get("other").spec.description == "Said here."  # type: ignore[union-attr]
    assert harmless() is None, "the decorated function stays as it is"
    with pytest.raises(ValueError, match="cannot be read_only"):
        registry.function(side_effect=True, read_only=True, name="both")(plain)
    with pytest.raises(ValueError, match="already registered"):
        registry.add(plain)


def test_models_and_raw_schemas_can_be_called() -> None:
    registry = FunctionRegistry()
    registry.add(Address, call=lambda address: address.title.upper(), name="move_to", read_only=True)
    schema = {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}, "required": ["a"]}}
    registry.add(schema, call=lambda a: a + 1)
    registry.add(FunctionSpec("known", "", {}, side_effect=False), call=lambda: 1)
    move, add, known = registry
    assert move.spec.description == "Where somebody lives." and move.call({"title": "a", "zip": "1"}) == "A"
    assert add.call({"a": 1}) == 2 and add.spec.side_effect and not known.spec.side_effect
    with pytest.raises(ValueError, match="needs call="):
        registry.add({"name": "x"})
    with pytest.raises(ValueError, match="give call="):
        registry.add(Address)


def test_coroutine_functions_are_run() -> None:
    async def later(x: int) -> int:
        """Later."""
        return x + 1

    assert FunctionRegistry().add(later).call({"x": 1}) == 2


def test_functions_cannot_change_the_callers_arguments() -> None:
    def grow(items: list[int]) -> int:
        """Grow."""
        items.append(1)
        return len(items)

    arguments = {"items": [1]}
    assert FunctionRegistry().add(grow).call(arguments) == 2 and arguments == {"items": [1]}
    raw = {"name": "grow", "parameters": {"properties": {"items": {"type": "array"}}}}
    assert FunctionRegistry().add(raw, call=grow).call(arguments) == 2 and arguments == {"items": [1]}


def test_functions_without_a_schema_are_refused() -> None:
    def untyped(x):  # type: ignore[no-untyped-def]
        """No type."""

    def many(*values: int) -> None:
        """Any number."""

    def strange(x: Thing) -> None:
        """A type JSON cannot hold."""

    for function, said in ((untyped, "x has no type"), (many, "given by name"), (strange, "JSON cannot hold")):
        with pytest.raises(SchemaError, match=said):
            FunctionRegistry().add(function)
    with pytest.raises(SchemaError, match="expected a function"):
        FunctionRegistry().add(3)


@pytest.mark.parametrize(
    "docstring",
    [
        "Does it.\n\nArgs:\n    a: First\n        thing.\n    b (int): Second: with colon.\n\nReturns:\n    x: y",
        "Does it.\n\nParameters\n----------\na : str\n    First\n    thing.\nb : int, optional\n    Second: with colon."
        "\n\nReturns\n-------\nx : int\n    y",
        "Does it.\n\n:param str a: First\n    thing.\n:param b: Second: with colon.\n:returns: x",
    ],
)
def test_three_styles_of_docstrings(docstring: str) -> None:
    assert parse_docstring(docstring) == ("Does it.", {"a": "First thing.", "b": "Second: with colon."})


def test_docstrings_in_no_style_are_all_description() -> None:
    assert parse_docstring("One.\n\nTwo\nlines.") == ("One.\nTwo lines.", {})
    assert parse_docstring(None) == ("", {})


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(text))
    return path


def test_a_file_offers_its_public_functions(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '''
        from __future__ import annotations
        from json import dumps
        from dataclasses import dataclass

        @dataclass
        class Pair:
            a: int

        def one(pair: Pair) -> int:
            """One."""
            return pair.a

        def _hidden() -> None:
            pass
        ''',
    )
    registry = load_functions(path)
    assert registry.names == ("one",) and registry.specs[0].side_effect
    assert registry.get("one").call({"pair": {"a": 3}}) == 3  # type: ignore[union-attr]
    assert registry.get("one").origin == ("file", str(path), "one")  # type: ignore[union-attr]


def test_marked_functions_hide_the_others(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '''
        from multimodal_ai.functions import function

        @function(read_only=True)
        def shown(x: int = 1) -> int:
            """Shown."""
            return x

        def helper() -> None:
            """Not shown."""
        ''',
    )
    registry = load_functions(path)
    assert registry.names == ("shown",) and not registry.specs[0].side_effect


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = 1 / 0\n", "mine.py, line 2: ZeroDivisionError"),
        ("def f(:\n", "mine.py, line 1: SyntaxError"),
        ("x = 1\n", "no functions found"),
        ("x = 1\ndef f(a):\n    pass\n", "mine.py, line 2: function f: parameter a has no type"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_functions(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.py"):
        load_functions(tmp_path / "nowhere.py")


def test_dataclasses_are_accepted_as_parameters() -> None:
    @dataclasses.dataclass
    class Point:
        x: float
        y: float = 0

    def norm(point: Point) -> float:
        """Norm."""
        return abs(point.x) + abs(point.y)

    norm.__annotations__["point"] = Point
    assert FunctionRegistry().add(norm).call({"point": {"x": 1}}) == 1
