"""Meter plates and payment slips: digits of one split, legible images, calls that say what is drawn."""

from __future__ import annotations

import io
from collections import Counter
from random import Random

import numpy as np
import pytest
from PIL import Image

from multimodal_ai.data.messages import Sample
from multimodal_ai.data.recipes import RECIPES, RecipeContext
from multimodal_ai.data.recipes.digits import _WORDS, KIND_SHARES, draw_meter, draw_payee, log_reading
from multimodal_ai.data.recipes.plates import _digit_bank, compose, digit_pools, encode_png
from multimodal_ai.functions.schema import validate_arguments

RECIPE = RECIPES["digits"]
COUNT = 600


@pytest.fixture(scope="module")
def samples() -> dict[str, list[Sample]]:
    return {split: list(RECIPE.build(RecipeContext(limit=COUNT), split)) for split in RECIPE.splits}


def drawn(sample: Sample) -> str:
    """The digits that stand on the image, by the class of the digit images used."""
    classes = _digit_bank()[1]
    return "".join(str(classes[index]) for index in sample.meta["digits"])


def test_no_digit_image_is_in_both_splits() -> None:
    for seed in (0, 7):
        train, test = digit_pools(seed, "train"), digit_pools(seed, "test")
        for digit in range(10):
            assert not set(train[digit]) & set(test[digit])
            assert 0.19 < len(test[digit]) / (len(train[digit]) + len(test[digit])) < 0.21
        assert sum(map(len, train + test)) == 1_797


def test_images_use_digits_of_their_split_only(samples: dict[str, list[Sample]]) -> None:
    for split, rows in samples.items():
        allowed = {index for pool in digit_pools(0, split) for index in pool}
        assert {index for sample in rows for index in sample.meta["digits"]} <= allowed


def test_calls_and_answers_say_what_is_drawn(samples: dict[str, list[Sample]]) -> None:
    seen: Counter[str] = Counter()
    for sample in samples["train"] + samples["test"]:
        last = sample.messages[-1]
        for call in last.tool_calls:
            if call.name == "log_reading":
                assert str(call.arguments["value"]) == drawn(sample)
                assert call.arguments["meter"] in sample.messages[0].text
            elif call.name == "record_payment":
                assert f"{call.arguments['amount']:.2f}".replace(".", "") == drawn(sample)
                assert call.arguments["payee"] in sample.messages[0].text
            seen[call.name] += 1
        if sample.task == "caption":
            thing, text = last.text.split(": ")
            assert thing in ("meter plate", "payment slip")
            assert "".join(char for char in text.rsplit(" ", 1)[0] if char.isdigit()) == drawn(sample)
        if sample.task == "vqa" and last.text[0].isdigit():
            assert last.text.replace(".", "") == drawn(sample)
    assert seen["log_reading"] > 100 and seen["record_payment"] > 100


def test_meter_values_have_three_or_four_digits_and_no_leading_zero(samples: dict[str, list[Sample]]) -> None:
    values = [
        call.arguments["value"]
        for sample in samples["train"]
        for call in sample.messages[-1].tool_calls
        if call.name == "log_reading"
    ]
    assert {len(str(value)) for value in values} == {3, 4}


def test_every_call_is_valid_and_listed(samples: dict[str, list[Sample]]) -> None:
    for sample in samples["train"] + samples["test"]:
        specs = {spec.name: spec for spec in sample.specs}
        for message in sample.messages:
            for call in message.tool_calls:
                assert validate_arguments(specs[call.name], call.arguments) == []


def test_refusals_list_no_function_that_would_serve(samples: dict[str, list[Sample]]) -> None:
    refused = [sample for sample in samples["train"] if sample.meta.get("trigger") == "cannot"]
    assert refused
    for sample in refused:
        assert sample.specs
        assert sample.meta["function"] not in {spec.name for spec in sample.specs}


def test_a_missing_name_is_asked_for(samples: dict[str, list[Sample]]) -> None:
    asked = [sample for sample in samples["train"] if sample.meta.get("trigger") == "ask_missing"]
    assert asked
    for sample in asked:
        assert sample.messages[-1].text.endswith("?")
        assert sample.meta["function"] in {spec.name for spec in sample.specs}


def test_shares_of_kinds(samples: dict[str, list[Sample]]) -> None:
    assert sum(KIND_SHARES.values()) == pytest.approx(1)
    tasks = Counter(sample.task for sample in samples["train"])
    assert tasks["caption"] / COUNT == pytest.approx(KIND_SHARES["caption"], abs=0.05)
    assert tasks["vqa"] / COUNT == pytest.approx(KIND_SHARES["vqa"], abs=0.05)
    triggers = Counter(sample.meta.get("trigger") for sample in samples["train"] if sample.task == "call")
    assert triggers["call"] / COUNT == pytest.approx(KIND_SHARES["call"] + KIND_SHARES["other_call"], abs=0.06)
    assert min(triggers[kind] for kind in ("answer", "ask_missing", "cannot")) > 10


def test_after_a_result_the_assistant_answers(samples: dict[str, list[Sample]]) -> None:
    followed = [sample for sample in samples["train"] if any(message.role == "tool" for message in sample.messages)]
    assert followed
    for sample in followed:
        assert [message.role for message in sample.messages] == ["user", "assistant", "tool", "assistant"]
        assert not sample.messages[1].train and sample.messages[3].train
        assert sample.meta["trigger"] == "answer"


def test_names_and_wordings_of_the_test_split_are_new() -> None:
    for draw in (draw_meter, draw_payee):
        names = {split: {draw(Random(number), split) for number in range(800)} for split in ("train", "test")}
        assert min(map(len, names.values())) > 50
        assert not names["train"] & names["test"]
    for thing in ("meter", "slip"):
        for kind in ("request", "request_without_name", "ask_number", "ask_label"):
            wordings = _WORDS[thing][kind]
            assert not set(wordings["train"]) & set(wordings["test"])
        assert len(_WORDS[thing]["request"]["train"]) >= 12
        assert len(_WORDS[thing]["request"]["test"]) >= 4


def test_images_decode_and_fit_eighty_patches(samples: dict[str, list[Sample]]) -> None:
    for sample in samples["test"]:
        with Image.open(io.BytesIO(sample.images[0])) as image:
            image.load()
            assert image.mode == "RGB" and image.height == 32
            assert 32 <= image.width <= 160 and image.width % 16 == 0


def test_digits_stand_out_from_the_paper() -> None:
    pools = digit_pools(0, "train")
    for number in range(60):
        data, _, _ = compose("4071", "kWh", pools, Random(number))
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.float32)[4:-4, 4:-4]
        assert np.percentile(pixels, 99) - np.percentile(pixels, 1) > 70


def test_places_are_where_the_ink_is() -> None:
    pools = digit_pools(0, "test")
    for number in range(60):
        text = "40.71" if number % 2 else "471"
        data, used, places = compose(text, "USD", pools, Random(number))
        assert len(places) == len(used) + 1
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.float32)[4:-4]
        ink = np.abs(pixels - np.median(pixels)) > 60
        assert all(ink[:, begin:end].sum() > 8 for begin, end in places)
        bare = np.ones(pixels.shape[1], bool)
        bare[:3] = bare[-3:] = False  # the edge that some have
        for begin, end in places:
            bare[begin:end] = False
        assert ink[:, bare].sum() <= 9 * ("." in text), "nothing but the dot stands elsewhere"


def test_png_holds_the_very_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 112, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_same_seed_same_rows_and_a_limit_is_a_prefix() -> None:
    first = list(RECIPE.raw_rows(RecipeContext(seed=3, limit=30), "train"))
    again = list(RECIPE.raw_rows(RecipeContext(seed=3, limit=15), "train"))
    other = list(RECIPE.raw_rows(RecipeContext(seed=4, limit=15), "train"))
    assert first[:15] == again
    assert first[:15] != other


def test_cards_are_as_documented() -> None:
    function = log_reading()["function"]
    assert list(function["parameters"]["properties"]) == ["meter", "value", "unit"]
    assert function["parameters"]["properties"]["value"]["type"] == "integer"


def test_tiles_show_bare_digits_of_their_split() -> None:
    context = RecipeContext(limit=60)
    for split in ("train", "test"):
        allowed = {index for pool in digit_pools(0, split) for index in pool}
        found = list(RECIPES["digit_tiles"].build(context, split))
        assert {len(sample.messages[-1].text) for sample in found} == {1, 2, 3, 4}
        for sample in found:
            assert sample.messages[-1].text == drawn(sample) and set(sample.meta["digits"]) <= allowed
