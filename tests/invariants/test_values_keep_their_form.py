"""DESIGN 7.11: strings stay strings, Unicode stays Unicode, nested values survive: from a file to ids and back.

This file follows a value through what data does to it: the row of a file, the sample, Parquet, the tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_ai.data.messages import Sample
from multimodal_ai.data.rows import load_rows
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions.canonical import canonical_json

LOOKS_LIKE_SOMETHING_ELSE = [
    "020",
    "007",
    "1e3",
    "3.0",
    "-0",
    "true",
    "null",
    "None",
    "2026-03-08",
    "[1]",
    '{"a":1}',
    "",
    " x ",
]
WRITTEN_IN_MANY_WAYS = [
    "東京",
    "서울",
    "Łódź",
    "ไทย",
    "👩‍👩‍👧",
    "e\u0301",
    "é",
    "\u200b",
    "\u202e",
    "tab\tline\n",
    "\\u00e9",
    "\x7f",
    "<|end|>",
]

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a value, another value", '{"name":"x","arguments":{"a":"b"}}'] * 4, 320)


def same(left: Any, right: Any) -> bool:
    """Equal in value and in type at every depth, with keys in the same order."""
    return json.dumps(left) == json.dumps(right)


def sample_of(arguments: Any, properties: dict[str, Any] | None = None) -> Sample:
    """A sample whose call has these arguments; each parameter may be anything unless `properties` says."""
    tool = {"name": "f", "parameters": {"type": "object", "properties": properties or {"v": {}}}}
    call = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": arguments}]}
    return Sample.from_row({"messages": [{"role": "user", "content": "x"}, call], "tools": [tool]})


def arguments_of(sample: Sample) -> dict[str, Any]:
    return sample.messages[-1].tool_calls[0].arguments


@given(value=plain)
def test_any_value_survives_rows_samples_and_ids(tokenizer: Tokenizer, value: Any) -> None:
    arguments = {"v": value}
    for given_as in (arguments, json.dumps(arguments), json.dumps(arguments, ensure_ascii=False)):
        sample = sample_of(given_as)
        assert same(arguments_of(sample), arguments)
        again = Sample.from_row(sample.to_row())
        assert same(arguments_of(again), arguments)
    text = canonical_json(arguments_of(sample))
    assert same(json.loads(tokenizer.decode(tokenizer.encode(text))), arguments)


@pytest.mark.parametrize("value", LOOKS_LIKE_SOMETHING_ELSE + WRITTEN_IN_MANY_WAYS)
def test_strings_stay_what_they_are(tokenizer: Tokenizer, value: str) -> None:
    sample = sample_of({"v": value}, {"v": {"type": "string"}})
    assert arguments_of(sample)["v"] == value
    assert isinstance(arguments_of(sample)["v"], str)
    assert tokenizer.decode(tokenizer.encode(value)) == value
    question = Sample.from_row(
        {"messages": [{"role": "user", "content": f"({value})"}, {"role": "assistant", "content": "y"}]}
    )
    assert Sample.from_row(question.to_row()).messages[0].text == f"({value})"


def test_printable_characters_are_never_escaped() -> None:
    written = sample_of({"v": "東京 👩‍👩‍👧 é"}).to_row()["messages"]
    assert "東京 👩‍👩‍👧 é" in written
    assert "\\u" not in written


@settings(max_examples=20)
@given(values=st.lists(plain, min_size=1, max_size=4))
def test_values_survive_files(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    """Rows whose calls differ in keys and types do not leak into each other, in no kind of file."""
    folder = tmp_path_factory.mktemp("values")
    all_arguments = [{"v": value, f"only_{index}": index} for index, value in enumerate(values)]
    properties = {"v": {}, **{f"only_{index}": {} for index in range(len(values))}}
    written = [sample_of(arguments, properties) for arguments in all_arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        datasets.Dataset.from_list([sample.to_row() for sample in written]).to_parquet(folder / "rows.parquet")
        lines(folder / "rows.jsonl", written)
        for name in ("rows.parquet", "rows.jsonl"):
            found = [arguments_of(Sample.from_row(row)) for row in load_rows(folder / name)]
            assert all(same(one, other) for one, other in zip(found, all_arguments, strict=True))


def lines(path: Path, written: list[Sample]) -> None:
    """JSON Lines with everything as objects, not as JSON text."""
    with path.open("w", encoding="utf-8") as file:
        for sample in written:
            messages = [message.model_dump(exclude_none=True) for message in sample.messages]
            file.write(json.dumps({"messages": messages, "tools": sample.tools}) + "\n")
