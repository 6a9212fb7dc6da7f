"""Comparing calls: equality by type, order, scores per argument, values made out of nothing."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_ai.evaluation.call_metrics import (
    COMMON,
    ArgumentCounts,
    NamedCall,
    align_calls,
    as_named_calls,
    calls_equal,
    hallucinated_arguments,
    similarity,
    value_type,
    values_equal,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-2, 2) | st.text("a0é ", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
CALL = st.builds(NamedCall, st.sampled_from(["f", "g"]), st.dictionaries(st.sampled_from("xy"), JSON))


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (True, True, True),
        ("020", "20", False),
        ("020", 20, False),
        (None, 0, False),
        (None, None, True),
        ([1, 2], [2, 1], False),
        ([1, 2.0], [1.0, 2], True),
        ({"a": 1, "b": [True]}, {"b": [True], "a": 1.0}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": {"b": 1}}, {"a": {"b": True}}, False),
        ("Zoë", "Zoe", False),
        (2**63, 2**63 + 1, False),
    ],
)
def test_equality_by_type(left: object, right: object, equal: bool) -> None:
    assert values_equal(left, right) is equal
    assert values_equal(right, left) is equal


@settings(deadline=None)
@given(st.lists(CALL, max_size=4), st.randoms())
def test_the_order_of_parallel_calls_does_not_matter(calls: list[NamedCall], random: Any) -> None:
    shuffled = list(calls)
    random.shuffle(shuffled)
    assert calls_equal(calls, shuffled)
    if calls:
        assert not calls_equal(calls[1:], shuffled)
        assert not calls_equal(calls + calls[:1], shuffled)


@settings(deadline=None)
@given(st.lists(CALL, max_size=4), st.lists(CALL, max_size=4))
def test_exact_means_every_argument_is_right(given: list[NamedCall], expected: list[NamedCall]) -> None:
    counts = ArgumentCounts()
    counts.add(given, expected)
    assert counts.given == sum(len(call.arguments) for call in given)
    assert counts.expected == sum(len(call.arguments) for call in expected)
    assert counts.equal <= min(counts.given, counts.expected)
    if calls_equal(given, expected):
        assert counts.equal == counts.given == counts.expected


def test_parallel_calls_are_paired_by_what_agrees() -> None:
    given = [NamedCall("f", {"x": 1, "y": 9}), NamedCall("f", {"x": 2, "y": 2})]
    expected = [NamedCall("f", {"x": 2, "y": 2}), NamedCall("f", {"x": 1, "y": 1}), NamedCall("g", {})]
    assert align_calls(given, expected) == [
        (given[0], expected[1]),
        (given[1], expected[0]),
        (None, expected[2]),
    ]


def test_scores_per_argument_by_hand() -> None:
    schemas = {"pay": {"properties": {"currency": {"enum": ["EUR", "USD"]}, "payee": {"type": "string"}}}}
    counts = ArgumentCounts()
    counts.add(
        [NamedCall("pay", {"payee": "Ann", "amount": 5, "currency": "EUR", "note": "x"})],
        [NamedCall("pay", {"payee": "Anna", "amount": 5.0, "currency": "EUR"})],
        schemas,
    )
    counts.add([], [NamedCall("pay", {"payee": "Bo"})], schemas)
    assert counts.metrics() == {
        "argument_precision": 2 / 4,
        "argument_recall": 2 / 4,
        "argument_value_exact": 2 / 3,
        "argument_value_exact/enum": 1.0,
        "argument_value_exact/number": 1.0,
        "argument_value_exact/string": 0.0,
    }
    assert math.isnan(ArgumentCounts().metrics()["argument_precision"])


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "null"), (True, "boolean"), (1, "integer"), (1.5, "number"), ("a", "string"), ([], "array")],
)
def test_types(value: object, kind: str) -> None:
    assert value_type(value) == kind
    assert value_type(value, {"enum": [value]}) == "enum"
    assert value_type({}) == "object"


TODAY = datetime.date(2026, 11, 25)
SCHEMA = {"f": {"properties": {"unit": {"enum": ["m3", "kWh"]}, "limit": {"default": 10}}}}


@pytest.mark.parametrize(
    ("arguments", "context", "made_up"),
    [
        ({"city": "new york"}, "Weather in New  York, please", 0),
        ({"city": "York"}, "Weather in New Yorkshire", 1),
        ({"city": "东京"}, "东京天气", 0),
        ({"amount": 5}, "pay 25", 1),
        ({"amount": 1204}, "pay 1,204 now", 0),
        ({"amount": -3.5}, "it is -3.50 outside", 0),
        ({"unit": "kWh"}, "log it", 0),
        ({"unit": "miles"}, "log it", 1),
        ({"limit": 10}, "list them", 0),
        ({"limit": 11}, "list them", 1),
        ({"urgent": True}, "now", 0),
        ({"items": ["milk", "eggs"]}, "buy milk and eggs", 0),
        ({"items": ["milk", "bread"]}, "buy milk and eggs", 1),
        ({"who": {"name": "Ann", "age": 7}}, "Ann is 7", 0),
        ({"at": "11:30"}, "at half past eleven", 0),
        ({"at": "11:00"}, "at half past eleven", 1),
        ({"day": "2026-11-26", "who": "Ann"}, "Ann comes tomorrow", 0),
        ({"day": "2026-11-27"}, "Ann comes tomorrow", 1),
        ({"amount": 5000}, "five thousand dollars", 0),
        ({"amount": "5000"}, "five thousand dollars", 0),
        ({"zip": "05000"}, "five thousand dollars", 1),
        ({"amounts": [5000, 7]}, "five thousand dollars", 1),
        ({}, "hello", 0),
    ],
)
def test_values_made_out_of_nothing(arguments: dict[str, Any], context: str, made_up: int) -> None:
    assert hallucinated_arguments([NamedCall("f", arguments)], [], context, SCHEMA, TODAY) == (
        made_up,
        len(arguments),
    )


def test_a_misread_value_is_a_mistake_of_reading() -> None:
    expected = [NamedCall("f", {"value": 1234})]
    read_wrong = [NamedCall("f", {"value": 1284, "note": "urgent"})]
    assert hallucinated_arguments(read_wrong, expected, "Log this reading") == (1, 2)  # the note only
    assert hallucinated_arguments(read_wrong, expected, "Log the value 1234") == (2, 2)
    said = "Log twelve hundred and thirty-four"
    assert hallucinated_arguments(read_wrong, expected, said) == (2, 2), "the right one could be derived"


def test_calls_come_in_every_chat_shape() -> None:
    expected = [NamedCall("f", {"x": 1})]
    shapes = [
        {"name": "f", "arguments": {"x": 1}},
        {"type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        expected[0],
    ]
    for shape in shapes:
        assert as_named_calls([shape]) == expected


def test_each_common_argument_has_numbers_of_its_own() -> None:
    counts = ArgumentCounts()
    gold = NamedCall("record", {"total": "12.30", "address": "1, JALAN ABC"})
    for _ in range(COMMON // 4):
        counts.add([NamedCall("record", {"total": "12.30", "address": "1, jalan abd"})], [gold])
        counts.add([NamedCall("record", {"total": "12.80"})], [gold])
        counts.add([NamedCall("other", {"total": "12.30"})], [gold])
        counts.add([], [gold])
    found = counts.metrics()
    assert found["argument_exact/record.total"] == 1 / 4
    assert found["argument_similarity/record.total"] == pytest.approx((1 + 0.8) / 4)
    assert found["argument_exact/record.address"] == 0
    assert found["argument_similarity/record.address"] == pytest.approx((1 - 1 / 12) / 4)
    counts.add([gold], [NamedCall("rare", {"x": 1})])
    assert "argument_exact/rare.x" not in counts.metrics()


@pytest.mark.parametrize(
    ("given", "expected", "near"),
    [("AB", "ab", 1), ("a  b", "a b", 1), ("", "abc", 0), (None, "abc", 0), (3, 3.0, 1), (True, 1, 0), ("3", 3, 0)],
)
def test_how_near_a_value_comes(given: object, expected: object, near: float) -> None:
    assert similarity(given, expected) == near
