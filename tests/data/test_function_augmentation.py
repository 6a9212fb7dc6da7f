"""Listed functions change, labels stay true, and what is drawn depends on the place in the run alone."""

from __future__ import annotations

import random
from typing import Any

import pytest

from multimodal_ai.data.dataset import DataConfig, MicroBatches
from multimodal_ai.data.examples import TRIGGERS
from multimodal_ai.data.function_augmentation import FunctionAugmentation, FunctionsConfig
from multimodal_ai.data.messages import Sample
from multimodal_ai.data.recipes.common import NO_FUNCTION
from multimodal_ai.data.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def cards(samples: dict[str, list[Sample]]) -> list[Sample]:
    return samples["function_cards"]


def changed(cards: list[Sample], seed: int = 0, **config: Any) -> list[tuple[Sample, Sample, bool]]:
    augment = FunctionAugmentation(FunctionsConfig(**config), cards)
    return [(sample, *augment(sample, random.Random(f"{seed}/{place}"))) for place, sample in enumerate(cards)]


def reread(sample: Sample) -> Sample:
    """Through the row format, which checks every call against its function and every label against its turn."""
    return Sample.from_row(sample.to_row())


def test_off_changes_nothing(cards: list[Sample]) -> None:
    assert all(after == before and not hidden for before, after, hidden in changed(cards))


def test_masked_names_say_nothing_and_keep_the_labels(cards: list[Sample]) -> None:
    for before, after, _ in changed(cards, masked=1.0):
        reread(after)
        assert all(spec.name.startswith("fn_") and len(spec.name) == 6 for spec in after.specs)
        pairs = dict(zip((s.name for s in before.specs), (s.name for s in after.specs), strict=True))
        assert [s.description for s in before.specs] == [s.description for s in after.specs]
        for old, new in zip(before.messages, after.messages, strict=True):
            assert [pairs[call.name] for call in old.tool_calls] == [call.name for call in new.tool_calls]
            assert new.name == (pairs[old.name] if old.name else old.name)
        if "asks_for" in before.meta:
            assert after.meta["asks_for"] == [pairs[before.meta["asks_for"][0]], before.meta["asks_for"][1]]
    some = [after.specs != before.specs for before, after, _ in changed(cards, masked=0.5)]
    assert 0.3 < sum(some) / len(some) < 0.7


def test_without_the_called_function_the_answer_is_that_there_is_none(cards: list[Sample]) -> None:
    refused = 0
    for before, after, _ in changed(cards, removed=1.0, distractors=2):
        called = {call.name for call in before.messages[-1].tool_calls}
        if not called:
            assert after.messages == before.messages and after.meta == before.meta
        elif after.messages != before.messages:
            refused += 1
            assert after.messages[-1].content in NO_FUNCTION and reread(after).meta["trigger"] == "cannot"
            assert after.specs and not called & {spec.name for spec in after.specs}
    assert refused > 15


def test_a_function_that_was_called_before_is_not_taken_away(cards: list[Sample]) -> None:
    sample = next(s for s in cards if s.messages[-1].tool_calls and len(s.specs) > 1)
    call = sample.messages[-1]
    result = {"role": "tool", "name": call.tool_calls[0].name, "content": "ok"}
    asked = {"role": "user", "content": "Once more, please"}
    context = call.model_copy(update={"train": False})
    once = call.model_copy(update={"tool_calls": call.tool_calls[:1]})
    turns = [sample.messages[0], context.model_copy(update={"tool_calls": call.tool_calls[:1]}), result, asked, once]
    again = Sample.from_row({"messages": turns, "tools": sample.tools, "task": "call", "meta": sample.meta})
    augment = FunctionAugmentation(FunctionsConfig(removed=1.0))
    assert augment(again, random.Random(0))[0] == again
    assert augment(sample, random.Random(0))[0] != sample


def test_distractors_and_near_ones_come_from_the_source(cards: list[Sample]) -> None:
    known = {spec for sample in cards for spec in sample.specs}
    added = []
    for before, after, _ in changed(cards, distractors=6):
        names = [spec.name for spec in after.specs]
        assert set(before.specs) <= set(after.specs) <= known and len(set(names)) == len(names)
        added.append(len(after.specs) - len(before.specs))
    assert {0, 6} <= set(added) <= set(range(7))


def test_hard_ones_share_more_words_with_the_request(cards: list[Sample]) -> None:
    from multimodal_ai.functions.lexical import lexical_scores

    def overlap(**config: Any) -> float:
        found = []
        for before, after, _ in changed(cards, **config):
            others = [spec for spec in after.specs if spec not in before.specs]
            everything = list({spec for sample in cards for spec in sample.specs})
            scores = dict(zip(everything, lexical_scores(before.messages[0].text, everything), strict=True))
            found += [scores[spec] for spec in others]
        return sum(found) / len(found)

    assert overlap(hard=4) > 2 * overlap(distractors=4)


def test_order_is_shuffled_and_one_change_leaves_the_others_as_they_were(cards: list[Sample]) -> None:
    many = [sample for sample in cards if len(sample.specs) > 2]
    moved = [after.specs != before.specs for before, after, _ in changed(many, shuffled=True)]
    assert all(set(after.specs) == set(before.specs) for before, after, _ in changed(many, shuffled=True))
    assert sum(moved) > len(many) / 2

    def masked(**config: Any) -> list[bool]:
        found = changed(cards, masked=0.5, **config)
        return [any(spec.name.startswith("fn_") for spec in after.specs) for _, after, _ in found]

    assert masked() == masked(removed=0.3)


def test_hidden_are_those_with_a_right_function_under_its_name(cards: list[Sample]) -> None:
    for before, after, hidden in changed(cards, hidden=1.0, masked=1.0, removed=1.0):
        assert hidden == (before.meta["trigger"] in ("call", "ask_missing"))
        assert not hidden or after == before


def test_batches_are_a_function_of_their_number(mixed_data: DataConfig, small_tokenizer: Tokenizer) -> None:
    functions = FunctionsConfig(masked=0.4, removed=0.3, distractors=3, hard=2, shuffled=True, hidden=0.4)
    source = mixed_data.sources["function_cards"].model_copy(update={"functions": functions})
    config = mixed_data.model_copy(update={"sources": {"function_cards": source}})

    def batches(rank: int = 0, world: int = 1, seed: int = 1) -> MicroBatches:
        return MicroBatches(config, small_tokenizer, seed=seed, global_size=16, micro_size=8, rank=rank, world=world)

    def cards_of(data: MicroBatches, position: int) -> tuple[str, ...]:
        example = data.example(position)
        return (str(example.hidden), TRIGGERS[example.trigger], *(card.key for card in example.cards))

    data = batches()
    forward = [cards_of(data, position) for position in range(80)]
    assert forward == [cards_of(batches(), position) for position in range(80)][:80]
    assert forward[::-1] == [cards_of(data, position) for position in reversed(range(80))]
    assert forward[8:16] == [cards_of(batches(1, 2), position) for position in range(8, 16)]
    assert forward[:40] != forward[40:] and forward != [cards_of(batches(seed=2), p) for p in range(80)]
    assert any(batches()[number].retrieval.any() for number in range(2))
    origins = [data.example(position).origin for position in range(80)]  # two epochs of 40 rows
    twice = [p for p in range(40) if origins.index(origins[p + 40]) < 40]
    assert any(forward[origins.index(origins[p + 40])] != forward[p + 40] for p in twice)
