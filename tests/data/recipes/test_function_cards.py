"""Generated cards and requests: disjoint functions, verbatim values, the promised mix of decisions."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_ai.data.messages import Sample
from multimodal_ai.data.recipes import RECIPES, RecipeContext, small_talk
from multimodal_ai.data.recipes.function_cards import (
    MASKED_SHARE,
    SURFACES,
    TRIGGER_SHARES,
    ask_for,
    card,
    draw_cards,
    functions,
    make_wish,
    phrase,
    plural,
    with_article,
)
from multimodal_ai.data.recipes.function_words import ACTIONS, FIELDS, NUMBER_WORDS, OBJECTS, draw_value
from multimodal_ai.functions.schema import FunctionSpec, validate_arguments

RECIPE = RECIPES["function_cards"]
COUNT = 1_000


@pytest.fixture(scope="module")
def samples() -> dict[str, list[Sample]]:
    return {split: list(RECIPE.build(RecipeContext(limit=COUNT), split)) for split in RECIPE.splits}


def test_hundreds_of_functions_and_none_in_both_splits() -> None:
    train, calibration, test = ({f.key for f in functions(split)} for split in ("train", "calibration", "test"))
    every = len(train | calibration | test)
    assert every == len(train) + len(calibration) + len(test) >= 600
    assert 0.15 < len(test) / every < 0.25 and 0.03 < len(calibration) / every < 0.08


def test_samples_show_functions_of_their_split_only(samples: dict[str, list[Sample]]) -> None:
    surfaces = {
        split: {card(function, surface).name for function in functions(split) for surface in range(SURFACES)}
        for split in RECIPE.splits
    }
    names = {split: {spec.name for sample in rows for spec in sample.specs} for split, rows in samples.items()}
    assert names["test"] <= surfaces["test"] and names["calibration"] <= surfaces["calibration"]
    assert {name for name in names["train"] if not name.startswith("fn_")} <= surfaces["train"]
    assert {sample.meta["function"] for sample in samples["test"] if "function" in sample.meta} <= {
        function.key for function in functions("test")
    }


def test_shares_of_triggers(samples: dict[str, list[Sample]]) -> None:
    for rows in samples.values():
        triggers = Counter(sample.meta["trigger"] for sample in rows)
        for trigger, share in TRIGGER_SHARES.items():
            assert triggers[trigger] / COUNT == pytest.approx(share, abs=0.05)


def test_five_to_ten_percent_of_calls_are_parallel(samples: dict[str, list[Sample]]) -> None:
    calls = [sample for rows in samples.values() for sample in rows if sample.meta["trigger"] == "call"]
    assert 0.05 <= sum(len(sample.messages[-1].tool_calls) == 2 for sample in calls) / len(calls) <= 0.1


def test_one_to_five_functions_with_different_names(samples: dict[str, list[Sample]]) -> None:
    sizes: Counter[int] = Counter()
    for sample in samples["train"] + samples["test"]:
        names = [spec.name for spec in sample.specs]
        sizes[len(names)] += 1
        assert len(set(names)) == len(names)
    assert set(sizes) == {1, 2, 3, 4, 5}


def test_values_stand_in_the_request(samples: dict[str, list[Sample]]) -> None:
    words = 0
    for sample in samples["train"] + samples["test"]:
        text = sample.messages[0].text
        for call in sample.messages[-1].tool_calls:
            for value in call.arguments.values():
                if isinstance(value, bool):
                    continue
                if str(value).lower() not in text.lower():
                    assert NUMBER_WORDS[value] in text.lower()
                    words += 1
    assert words > 0


def test_refused_functions_are_not_listed(samples: dict[str, list[Sample]]) -> None:
    surfaces = {
        function.key: {card(function, surface).name for surface in range(SURFACES)}
        for split in RECIPE.splits
        for function in functions(split)
    }
    for sample in samples["train"] + samples["test"]:
        if sample.meta["trigger"] == "cannot":
            assert not surfaces[sample.meta["function"]] & {spec.name for spec in sample.specs}
            assert sample.specs and not sample.messages[-1].tool_calls


def test_names_are_masked_in_training_only(samples: dict[str, list[Sample]]) -> None:
    masked = {
        split: sum(all(re.fullmatch(r"fn_\w{3}", spec.name) for spec in sample.specs) for sample in rows) / COUNT
        for split, rows in samples.items()
    }
    assert masked["train"] == pytest.approx(MASKED_SHARE, abs=0.04)
    assert masked["test"] == 0


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, SURFACES - 1), st.sampled_from(["train", "test"]))
def test_a_wish_makes_a_valid_call_on_any_surface(seed: int, surface: int, split: str) -> None:
    rng = Random(seed)
    function = rng.choice(functions(split))
    one = card(function, surface)
    wish = make_wish(function, rng, split)
    spec = FunctionSpec.from_tool(one.tool)
    assert len(set(one.parameters.values())) == len(one.parameters) == len(spec.parameter_names)
    values = {name: wish.values[key] for key, name in one.parameters.items() if key in wish.values}
    assert validate_arguments(spec, values) == []
    assert "{" not in wish.text and "{" not in phrase(wish.text, rng, split) and "{" not in spec.description


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["train", "test"]))
def test_a_missing_value_is_required_unstated_and_asked_for(seed: int, split: str) -> None:
    rng = Random(seed)
    function = rng.choice(functions(split))
    wish = make_wish(function, rng, split, missing=True)
    assert wish.missing in function.action.required
    assert wish.missing not in wish.values
    assert FIELDS[wish.missing].label in ask_for(wish, rng)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 5), st.sampled_from(["train", "test"]))
def test_distractors_are_other_functions(seed: int, count: int, split: str) -> None:
    rng = Random(seed)
    gold = rng.choice(functions(split))
    drawn = draw_cards(rng, split, count, [gold])
    assert len({one.name for one in drawn}) == len({one.function.key for one in drawn}) == count
    assert gold.key not in {one.function.key for one in drawn}


def test_some_distractors_are_hard() -> None:
    gold = functions("train")[0]
    drawn = draw_cards(Random(0), "train", 200, [gold])
    near = [one for one in drawn if gold.noun == one.function.noun or gold.action.key == one.function.action.key]
    assert len(near) > 10


def test_words_are_apart() -> None:
    """One wording means one action, one word means one object, and test wordings are not trained on."""
    for kind, actions in ACTIONS.items():
        wordings = [text for action in actions for text in (*action.requests, *action.held_out)]
        assert len(wordings) == len(set(wordings)), kind
    nouns = [noun for pairs in OBJECTS.values() for pair in pairs for noun in set(pair)]
    assert [noun for noun, count in Counter(nouns).items() if count > 1] == []
    for name, field in FIELDS.items():
        assert not set(field.clauses) & set(field.held_out), name
        assert field.clauses or field.when_true, name


def test_every_kind_of_value_can_be_drawn() -> None:
    types: dict[str, type | tuple[type, ...]] = {"integer": int, "boolean": bool, "number": (int, float)}
    for field in FIELDS.values():
        for seed in range(20):
            assert isinstance(draw_value(field, Random(seed)), types.get(field.kind, str))


def test_grammar_helpers() -> None:
    assert [plural(noun) for noun in ("note", "diary entry", "bus", "list of wishes", "place to eat")] == [
        "notes",
        "diary entries",
        "buses",
        "lists of wishes",
        "places to eat",
    ]
    assert with_article("order") == "an order" and with_article("note") == "a note"


def test_small_talk_of_the_test_split_is_partly_new() -> None:
    talk = {split: {small_talk.exchange(Random(seed), split)[0] for seed in range(2_000)} for split in RECIPE.splits}
    assert len(talk["train"]) > 100
    assert len(talk["test"] - talk["train"]) > 50


def test_same_seed_same_rows_and_a_limit_is_a_prefix() -> None:
    first = list(RECIPE.raw_rows(RecipeContext(seed=3, limit=40), "test"))
    assert first[:20] == list(RECIPE.raw_rows(RecipeContext(seed=3, limit=20), "test"))
    assert first[:20] != list(RECIPE.raw_rows(RecipeContext(seed=4, limit=20), "test"))
