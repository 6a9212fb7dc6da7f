"""Following a reply token by token: events, and the position inside a call."""

from __future__ import annotations

import itertools
import json
import random
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multimodal_ai.functions import CallParser, canonical_json, parse_calls
from multimodal_ai.functions.call_scanner import CallScanner

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(TEXT, VALUES, max_size=4)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@settings(deadline=None)
@given(
    arguments=ARGUMENTS, name=TEXT, cuts=st.lists(st.integers(0, 1000), max_size=20), indent=st.sampled_from([None, 1])
)
def test_any_way_of_cutting_gives_the_same_call(arguments: Any, name: str, cuts: list[int], indent: Any) -> None:
    call = {"name": name, "arguments": arguments}
    data = json.dumps(call, ensure_ascii=False, indent=indent).encode()
    scanner = CallScanner()
    text = "".join(scanner.push(piece) for piece in pieces(data, cuts))
    assert scanner.error is None and scanner.is_complete and scanner.name == name
    assert scanner.arguments() == arguments and json.loads(text) == arguments
    assert scanner.written == tuple(arguments) and scanner.parameter is None


@settings(deadline=None)
@given(arguments=ARGUMENTS)
def test_the_state_after_each_byte_does_not_depend_on_the_cut(arguments: Any) -> None:
    data = canonical_json({"name": "f", "arguments": arguments}).encode()

    def state(scanner: CallScanner) -> tuple[Any, ...]:
        names = ("state", "name", "name_prefix", "parameter", "value_start", "in_string", "key_prefix", "written")
        return tuple(getattr(scanner, name) for name in names)

    stepwise = CallScanner()
    for end in range(1, len(data) + 1):
        stepwise.push(data[end - 1 : end])
        whole = CallScanner()
        whole.push(data[:end])
        assert state(stepwise) == state(whole), data[:end]


def test_positions_inside_a_call() -> None:
    data = b'{"name":"log","arguments":{"meter":"E-1","n":[1,"a"],"place":{"city":"x"},"ok":true}}'
    scanner = CallScanner()
    seen: dict[int, tuple[Any, ...]] = {}
    for index in range(len(data)):
        scanner.push(data[index : index + 1])
        seen[index + 1] = (scanner.state, scanner.parameter, scanner.value_start, scanner.in_string, scanner.key_prefix)

    def at(prefix: str) -> tuple[Any, ...]:
        assert data.startswith(prefix.encode())
        return seen[len(prefix)]

    base = '{"name":"log","arguments":'
    assert at('{"name":"') == ("name", None, True, True, None)
    assert at('{"name":"lo') == ("name", None, False, True, None)
    assert at(base) == ("name", None, True, False, None)
    assert at(base + "{") == ("arguments", None, False, False, "")
    assert at(base + '{"me') == ("arguments", None, False, False, "me")
    assert at(base + '{"meter"') == ("arguments", None, False, False, "meter")
    assert at(base + '{"meter":') == ("arguments", "meter", True, False, None)
    assert at(base + '{"meter":"') == ("arguments", "meter", True, True, None)
    assert at(base + '{"meter":"E') == ("arguments", "meter", False, True, None)
    assert at(base + '{"meter":"E-1"') == ("arguments", None, False, False, None)
    assert at(base + '{"meter":"E-1",') == ("arguments", None, False, False, "")
    inside = base + '{"meter":"E-1","n":'
    assert at(inside + "[") == ("arguments", "n", True, False, None)
    assert at(inside + "[1") == ("arguments", "n", False, False, None)
    assert at(inside + "[1,") == ("arguments", "n", True, False, None)
    assert at(inside + '[1,"') == ("arguments", "n", True, True, None)
    assert at(inside + '[1,"a"') == ("arguments", "n", False, False, None)
    assert at(inside + '[1,"a"]') == ("arguments", None, False, False, None)
    nested = inside + '[1,"a"],"place":'
    assert at(nested + '{"ci') == ("arguments", "place", False, False, None)
    assert at(nested + '{"city":"') == ("arguments", "place", True, True, None)
    assert at(nested + '{"city":"x"}') == ("arguments", None, False, False, None)
    assert scanner.written == ("meter", "n", "place", "ok") and scanner.is_complete


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "nonsense",
        '{"name":"f"}',
        '{"name":"f","arguments":[]}',
        '{"name":"f","arguments":{}',
        '{"name":"f","arguments":{}}}',
        '{"name":"f","arguments":{"a":}}',
        '{"name":"f","arguments":{"a":1,}}',
        '{"name":"f","arguments":{"a":tru}}',
        '{"name":"f","arguments":{"a":1 2}}',
        '{"name":"f","arguments":{"a":"\\x"}}',
        '{"name":3,"arguments":{}}',
        '{"name":"f","other":1,"arguments":{}}',
        '{"name":"f","arguments":' + '{"a":' * 300,
    ],
)
def test_broken_calls_are_errors_whatever_the_cut(text: str) -> None:
    for size in (1, 3, 1000):
        scanner = CallScanner()
        data = text.encode()
        for start in range(0, len(data), size):
            scanner.push(data[start : start + size])
        with pytest.raises(ValueError):
            scanner.arguments()


def reply_ids(tokenizer: Any, *parts: Any) -> list[int]:
    ids: list[int] = []
    for part in parts:
        if isinstance(part, str):
            ids += tokenizer.encode(part)
        else:
            ids += [tokenizer.special.call, *tokenizer.encode(canonical_json(part)), tokenizer.special.call_end]
    return ids


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=TEXT, first=ARGUMENTS, second=ARGUMENTS)
def test_deltas_add_up_to_the_calls(content: str, first: Any, second: Any, tokenizer) -> None:
    calls = [{"name": "log_reading", "arguments": first}, {"name": "refresh", "arguments": second}]
    parser = CallParser(tokenizer)
    events = [event for id in reply_ids(tokenizer, content, *calls) for event in parser.push(id)] + parser.close()
    assert "".join(event.text for event in events if event.kind == "text") == content
    for index, call in enumerate(calls):
        own = [event for event in events if event.kind != "text" and event.index == index]
        assert own[0].kind == "call_start" and own[-1].kind == "call_end"
        deltas = "".join(event.text for event in own if event.kind == "arguments")
        assert deltas == canonical_json(call["arguments"]) == own[-1].text
        assert own[-1].arguments == call["arguments"] and {event.name for event in own} == {call["name"]}


def test_the_parser_knows_the_function_and_the_argument(tokenizer, functions) -> None:
    parser = CallParser(tokenizer, functions)
    trail = []
    for id in reply_ids(tokenizer, "Well: ", {"name": "log_reading", "arguments": {"meter": "E-12", "value": 5}}):
        parser.push(id)
        trail.append((parser.state, parser.function.name if parser.function else None, parser.parameter))
    assert trail[0] == ("text", None, None) == trail[-1]
    assert ("name", None, None) in trail and ("arguments", "log_reading", "meter") in trail
    assert ("arguments", "log_reading", "value") in trail


def test_marks_in_text_are_text(tokenizer) -> None:
    written = 'see <function_call>{"name":"x","arguments":{}}</function_call>'
    reply = parse_calls(tokenizer.encode(written), tokenizer)
    assert reply.content == written and reply.calls == []
    inside = {"name": "f", "arguments": {"a": "</function_call><|end|>"}}
    assert parse_calls(reply_ids(tokenizer, inside), tokenizer).calls[0].arguments == inside["arguments"]


def test_cut_and_broken_replies(tokenizer) -> None:
    whole = reply_ids(tokenizer, {"name": "f", "arguments": {"a": 1}})
    assert parse_calls(whole[:-3], tokenizer).errors == ["the call ends in the middle"]
    broken = [tokenizer.special.call, *tokenizer.encode("oops"), tokenizer.special.call_end]
    reply = parse_calls([*broken, *whole], tokenizer)
    assert len(reply.errors) == 1 and len(reply.calls) == 1
    letter = tokenizer.encode("é")
    half = next(id for id in range(tokenizer.vocab_size) if tokenizer.token_bytes(id) == "é".encode()[:1])
    assert parse_calls([half], tokenizer).content == "\ufffd" and parse_calls(letter, tokenizer).content == "é"


def test_repeated_keys_count_once_the_last_wins(tokenizer) -> None:
    ids = tokenizer.encode('{"name":"f","arguments":{"a":1,"a":2}}')
    reply = parse_calls([tokenizer.special.call, *ids, tokenizer.special.call_end], tokenizer)
    assert reply.calls[0].arguments == {"a": 2}


def test_text_with_written_marks_can_be_read_too() -> None:
    text = (
        'Yes.<function_call>{"name":"f","arguments":{"a":"</function_call>"}}</function_call>'
        '<function_call>{"name":"g","arguments":3}</function_call><function_call>{"name":'
    )
    reply = parse_calls(text)
    assert reply.content == "Yes." and [call.name for call in reply.calls] == ["f"]
    assert reply.calls[0].arguments == {"a": "</function_call>"} and len(reply.errors) == 2
    with pytest.raises(ValueError, match="tokenizer"):
        parse_calls([1, 2])


def test_a_token_costs_microseconds(tokenizer, functions) -> None:
    rng = random.Random(0)
    call = {"name": "log_reading", "arguments": {"meter": "".join(rng.choices("abc XYZ", k=2000)), "value": 1}}
    ids = reply_ids(tokenizer, call)
    best = 1.0
    for _ in range(10):
        parser = CallParser(tokenizer, functions)
        began = time.thread_time()
        for id in ids:
            parser.push(id)
        best = min(best, (time.thread_time() - began) / len(ids))
    assert best < 40e-6  # about 2 on an idle core; thread time, so that load does not count
