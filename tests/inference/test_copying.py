"""Copied strings, with a model that was never trained: what it calls was said, whatever was said."""

from __future__ import annotations

import datetime
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from multimodal_ai.functions.schema import FunctionSpec, validate_arguments
from multimodal_ai.inference import Engine, Request

DAY = datetime.date(2026, 11, 25)
TOOL = {
    "name": "note",
    "parameters": {
        "properties": {"what": {"type": "string"}, "n": {"type": "integer"}, "e": {"enum": ["a", "b"]}},
        "required": ["what", "n", "e"],
    },
}
WORDS = st.text(st.sampled_from("abZé日\"\\\n\t /,.7'😀\x01"), min_size=1, max_size=30)


def request(said: list[dict[str, Any]], **options: Any) -> Request:
    shared: dict[str, Any] = {"tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 250, "today": DAY}
    return Request(said, [TOOL], temperature=1.5, **{**shared, "strings": "copied", **options})


def is_run(value: str, texts: list[str]) -> bool:
    """Whether a value stands in a text, blanks being one space, cuts no word there, and has no blank at an end."""
    texts = [" ".join(text.split()) for text in texts]
    edges = value == value.strip() != ""
    start, end = r"(?<!\w)" * value[:1].isalnum(), r"(?!\w)" * value[-1:].isalnum()
    return edges and any(re.search(start + re.escape(value) + end, text) for text in texts)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(WORDS, min_size=2, max_size=3), seed=st.integers(0, 999))
def test_every_string_was_said(engine: Engine, texts: list[str], seed: int) -> None:
    said = [{"role": role, "content": text} for role, text in zip(("system", "user", "user"), texts, strict=False)]
    reply = engine.generate([request(said, seed=seed)])[0]
    assert reply.finish_reason == "tool_calls"  # the grammar came to its end
    for call in reply.calls:
        assert not validate_arguments(FunctionSpec.from_tool(TOOL), call.arguments)
        what = call.arguments["what"]
        nothing = not any(text.strip() for text in texts)
        spelled = re.fullmatch(r"[\d.:-]+", what)  # numbers of the text, such as 7 of 7,77
        assert is_run(what, texts) or spelled or (nothing and what == "")


def values(engine: Engine, said: list[dict[str, Any]], seed0: int = 0, **options: Any) -> set[str]:
    asked = [request(said, seed=seed0 + seed, **options) for seed in range(12)]
    return {call.arguments["what"] for reply in engine.generate(asked) for call in reply.calls}


def test_a_run_begins_and_ends_at_any_word(engine: Engine) -> None:
    said = [{"role": "user", "content": " from  San\tFrancisco \n"}]
    words = ["from", "San", "Francisco"]
    runs = {" ".join(words[start:stop]) for start in range(3) for stop in range(start + 1, 4)}
    found = set[str]()
    for seed in range(0, 96, 12):
        found |= values(engine, said, seed0=seed)
    assert found <= runs and {run.split()[0] for run in found} == {run.split()[-1] for run in found} == set(words)


def test_results_and_readings_count(engine: Engine) -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": "Zurich"}
    call = {"id": "c1", "type": "function", "function": {"name": "note", "arguments": '{"what":"x","n":1,"e":"a"}'}}
    said = [{"role": "user", "content": "tomorrow"}, {"role": "assistant", "tool_calls": [call]}, result]
    assert values(engine, said) == {"tomorrow", "Zurich", "2026-11-26"}


def test_off_by_default_and_with_an_image(engine: Engine) -> None:
    said = [{"role": "user", "content": "hello"}]
    assert values(engine, said) == {"hello"}
    free = values(engine, said, strings=None)
    assert free == values(engine, said, strings="free") != {"hello"}
    pictured = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hello"}]}]
    assert values(engine, pictured, images=[Image.new("RGB", (32, 32))]) != {"hello"}


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(ValueError, match="free or copied"):
        request([], strings="copy")
