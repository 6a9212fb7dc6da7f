"""Recipes over data files: their first rows are valid, and their splits are by group where they must be."""

from __future__ import annotations

import io
import json
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import pytest
from PIL import Image

from multimodal_ai.data.messages import Sample
from multimodal_ai.data.recipes import (
    RECIPES,
    RecipeContext,
    books,
    clinc150,
    emoji_noto,
    function_search,
    nlvr,
    openclipart,
    openstax_text,
    sealtools,
    sgd,
    snips,
    sroie,
)
from multimodal_ai.data.recipes.common import ImageArchive, read_jsonl_xz

FROM_FILES = [name for name, recipe in RECIPES.items() if recipe.files]


@pytest.mark.parametrize("name", FROM_FILES)
def test_first_rows(name: str, data_folder: Path) -> None:
    recipe = RECIPES[name]
    for split in recipe.splits:
        if name in ("books", "openstax_text") and split != "train":
            continue  # the first test group stands far inside the file
        samples = list(recipe.build(RecipeContext(data_folder, limit=30), split))
        assert len(samples) == 30
        for sample in samples:
            assert sample.messages[-1].role == "assistant" and sample.messages[-1].train
            assert sample.meta["source"] == name
            assert sample.task in ("text", "caption", "vqa", "call")
            if sample.task == "call":
                assert sample.meta["trigger"] in ("answer", "call", "ask_missing", "cannot")
                assert (sample.meta["trigger"] == "call") == bool(sample.messages[-1].tool_calls)
            for data in sample.images:
                with Image.open(io.BytesIO(data)) as image:
                    image.load()


def first(name: str, folder: Path, count: int, split: str = "train") -> list[Sample]:
    return list(RECIPES[name].build(RecipeContext(folder, limit=count), split))


# -- text


def test_passages_keep_their_book_and_lose_the_headings() -> None:
    sentence = "It was a bright cold day in April and the clocks were striking. "
    lines = [
        "# Title: One",
        "",
        "## Author: X",
        "-------",
        sentence * 5,
        "A _very_ short one.",
        "<|doc|>",
        "# Title: Two",
        sentence * 80,
    ]
    found = list(books.passages(lines))
    assert {title for title, _ in found} == {"One", "Two"}
    assert found[0][1].endswith("A very short one.")
    assert all(len(text) <= books.MAX_CHARACTERS + 100 for _, text in found)
    assert not any("#" in text or "---" in text for _, text in found)


def test_references_are_no_prose() -> None:
    assert openstax_text.is_prose(
        "Elasticities are often lower in the short run than in the long run. " * 3 + "It holds."
    )
    assert not openstax_text.is_prose(
        "Karau, S. J., & Williams, K. D. (1993). Social loafing: A meta-analytic review of it all. " * 2
    )


# -- images


def test_emoji_variants_stay_together(data_folder: Path) -> None:
    names = {
        split: [s.messages[-1].text for s in first("emoji_noto", data_folder, 2_000, split)]
        for split in ("train", "test")
    }
    assert not set(names["train"]) & set(names["test"])
    for stem in ("climbing", "juggling", "shrugging"):
        assert sum(any(stem in name for name in names[split]) for split in names) == 1
    assert emoji_noto.caption({"caption": "keycap ", "kw": ["hash", "key", "number"]}) == "keycap hash key"


def test_clip_art_without_a_name_gets_its_description_or_is_left_out() -> None:
    entry = {"caption": "Various Cliparts", "desc": "", "kw": [], "dir": ""}
    assert openclipart.caption(entry) == ""
    assert openclipart.caption({**entry, "desc": "A man going downstairs. More."}) == "A man going downstairs"
    assert openclipart.caption({**entry, "caption": "Jigsaw_Blue"}) == "jigsaw blue"


def test_clip_art_is_named_after_what_it_shows() -> None:
    entry = {"caption": "Etiquette Icons", "desc": "", "src": "food__beverages__coffee_01.webp"}
    assert openclipart.caption(entry) == "etiquette icons"
    assert openclipart.caption(entry, {"etiquette icons"}) == "coffee"
    assert openclipart.caption({**entry, "src": "shapes__a.webp"}, {"etiquette icons"}) == ""
    arrow = {**entry, "caption": "Simple arrows", "src": "shapes__arrows__arrow2-3.webp"}
    assert openclipart.caption(arrow, {"simple arrows"}) == "simple arrows"
    for credit in ("EPS converted from http://aiga.org", "jane.doe@example.org", "Part of Hotel Icons Collection"):
        assert openclipart.caption({**entry, "caption": "h foot print", "desc": credit}) == "h foot print"


def test_books_of_figures_and_stories_are_in_one_split(data_folder: Path) -> None:
    for name, limit in (("openstax_img", 300), ("storybooks", 2_000)):
        found = {split: {s.meta["book"] for s in first(name, data_folder, limit, split)} for split in ("train", "test")}
        assert found["train"] and found["test"] and not found["train"] & found["test"]


def test_pictures_of_one_story_are_in_one_split(data_folder: Path) -> None:
    shown = {
        split: {sample.images[0] for sample in first("storybooks", data_folder, 2_000, split)}
        for split in ("train", "test")
    }
    assert shown["train"] and shown["test"] and not shown["train"] & shown["test"]


def test_groceries_follow_the_official_split(data_folder: Path) -> None:
    official = Counter(entry["split"] for entry in ImageArchive(data_folder / "grocery.zip").entries)
    rows = list(RECIPES["grocery"].raw_rows(RecipeContext(data_folder), "validation"))
    assert len(rows) == 3 * official["val"]
    calls = [row["messages"][-1]["tool_calls"][0] for row in rows if row["meta"].get("trigger") == "call"]
    assert len(calls) > 0.75 * official["val"]
    assert {call["name"] for call in calls} == {"add_to_cart"}


def test_receipts_are_split_by_company(data_folder: Path) -> None:
    archive = ImageArchive(data_folder / "sroie.zip")
    company = {entry["image"]: sroie.company_key(entry["call"]["arguments"]["company"]) for entry in archive.entries}
    found = {
        split: {
            company[row["meta"]["receipt"]]
            for row in RECIPES["sroie"].raw_rows(RecipeContext(data_folder, tasks=frozenset({"vqa"}), limit=600), split)
        }
        for split in ("train", "test")
    }
    assert found["train"] and found["test"] and not found["train"] & found["test"]
    assert sroie.company_key("Gardenia Bakeries (KL) Sdn Bhd") == sroie.company_key("GARDENIA BAKERIES (KL) SDN. BHD.")


def test_receipts_of_one_address_are_in_one_split(data_folder: Path) -> None:
    archive = ImageArchive(data_folder / "sroie.zip")
    places = {
        split: {entry["call"]["arguments"]["address"].strip() for entry in sroie.split_entries(archive, split)} - {""}
        for split in ("train", "test")
    }
    assert places["train"] and places["test"] and not places["train"] & places["test"]


def test_a_receipt_whose_values_are_not_all_known_has_no_call(data_folder: Path) -> None:
    context = RecipeContext(data_folder, tasks=frozenset({"call", "vqa"}))
    for split in ("train", "test"):
        for row in RECIPES["sroie"].raw_rows(context, split):
            for call in row["messages"][-1].get("tool_calls", ()):
                assert all(value.strip() for value in call["arguments"].values())


def test_lines_of_a_receipt_are_cropped(data_folder: Path) -> None:
    lines = [s for s in first("sroie", data_folder, 60) if s.meta.get("kind") == "line"]
    assert len(lines) > 20
    for sample in lines[:10]:
        with Image.open(io.BytesIO(sample.images[0])) as image:
            assert image.width > image.height


def test_scene_is_drawn_where_it_is_described() -> None:
    square = {"x_loc": 50, "y_loc": 50, "size": 20, "type": "square", "color": "Yellow"}
    circle = {"x_loc": 10, "y_loc": 10, "size": 30, "type": "circle", "color": "#0099ff"}
    triangle = {"x_loc": 40, "y_loc": 60, "size": 30, "type": "triangle", "color": "Black"}
    with Image.open(io.BytesIO(nlvr.draw_scene([[square], [circle], [triangle]]))) as image:
        assert image.size == (208, 64)
        at = lambda box, x, y: image.getpixel((box * 72 + round(x * 0.64), round(y * 0.64)))  # noqa: E731
        assert at(0, 60, 60) == (255, 220, 0) and at(0, 20, 20) == (211, 211, 211)
        assert at(1, 25, 25) == (0, 153, 255) and at(1, 11, 11) == (211, 211, 211)
        assert at(2, 55, 80) == (0, 0, 0) and at(2, 42, 64) == (211, 211, 211)


def test_statements_of_one_group_are_in_one_split(data_folder: Path) -> None:
    found = {
        split: {
            s.meta["identifier"].split("-")[0]
            for s in islice(RECIPES["nlvr"].build(RecipeContext(data_folder), split), 150)
        }
        for split in ("train", "test")
    }
    assert not found["train"] & found["test"]


# -- functions


def test_snips_values_are_copied_from_the_utterance(data_folder: Path) -> None:
    slots = {(intent, slot) for intent, (_, listed) in snips._INTENTS.items() for slot in listed.split()}
    seen = {(e["intent"], slot) for e in read_jsonl_xz(data_folder / "snips.jsonl.xz") for slot, _ in e["slots"]}
    assert slots == seen
    copied = [
        value in sample.messages[0].text
        for sample in first("snips", data_folder, 300)
        for call in sample.messages[-1].tool_calls
        for value in call.arguments.values()
    ]
    assert sum(copied) / len(copied) > 0.95


def test_out_of_scope_is_refused(data_folder: Path) -> None:
    rows = list(RECIPES["clinc150"].raw_rows(RecipeContext(data_folder), "test"))
    outside = [row for row in rows if row["meta"].get("out_of_scope")]
    assert len(outside) == 100
    assert {row["meta"]["trigger"] for row in outside} == {"cannot"}
    assert len(clinc150.cards(("pay_bill", "apr"))) == 2


def test_sealtools_types_become_json_schema() -> None:
    card = sealtools.convert(
        {
            "api_name": "request First",
            "api_description": "d",
            "parameters": {"a": {"type": "int", "description": "x"}, "b": {"type": "str", "description": "y"}},
            "required": ["a", "gone"],
        }
    )["function"]
    assert card["name"] == "request_First"
    assert card["parameters"]["properties"]["a"] == {"type": "integer", "description": "x"}
    assert card["parameters"]["required"] == ["a"]
    assert sealtools.coerce(3, {"type": "string"}) == "3"
    assert sealtools.coerce(3, {"type": "number"}) == 3
    assert sealtools.coerce(True, {"type": "string"}) is True


def test_metatool_tests_unseen_tools(data_folder: Path) -> None:
    shown = {
        split: {spec.name for sample in first("metatool", data_folder, 400, split) for spec in sample.specs}
        for split in ("train", "test")
    }
    assert not shown["train"] & shown["test"]


def test_paraphrased_functions_take_the_same_values(data_folder: Path) -> None:
    catalogues = sgd.read_catalogues(RecipeContext(data_folder), "train")
    assert set(catalogues) == {"original", *sgd.VARIANTS}
    original, paraphrase = catalogues["original"], catalogues["v5"]
    values = {"account_type": "checking", "amount": "200", "recipient_account_name": "Amy"}
    assert original.arguments("Banks_1.TransferMoney", values) == values
    assert list(paraphrase.arguments("Banks_1.TransferMoney", values).values()) == list(values.values())
    assert original.name("Banks_1.TransferMoney") == "Banks_1_TransferMoney" != paraphrase.name("Banks_1.TransferMoney")


def test_dialogues_become_one_sample_for_each_decision(data_folder: Path) -> None:
    samples = first("sgd", data_folder, 400)
    triggers = Counter(sample.meta["trigger"] for sample in samples)
    assert set(triggers) == {"answer", "call", "ask_missing", "cannot"}
    assert {sample.meta["wording"] for sample in samples} > {"original"}
    for sample in samples:
        assert not any(message.train for message in sample.messages[:-1] if message.role == "assistant")
    after = [s for s in samples if len(s.messages) > 1 and s.messages[-2].role == "tool"]
    assert after and {sample.meta["trigger"] for sample in after} == {"answer"}
    assert all(len(json.loads(s.messages[-2].text)) <= sgd.RESULTS_KEPT for s in after)


def test_training_is_not_mostly_answers(data_folder: Path) -> None:
    def share(split: str) -> float:
        triggers = [sample.meta["trigger"] for sample in first("sgd", data_folder, 1_500, split)]
        return triggers.count("answer") / len(triggers)

    assert share("train") < 0.4 and share("calibration") > 0.45  # what is measured or calibrated stays as it is


def test_refused_calls_show_no_function_of_their_service(data_folder: Path) -> None:
    samples = first("sgd", data_folder, 600)
    for refused, called in pairwise(samples):
        if refused.meta["trigger"] == "cannot" and called.meta["trigger"] == "call":
            gone = {call.name for call in called.messages[-1].tool_calls}
            assert not gone & {spec.name for spec in refused.specs}


def test_calibration_services_stand_in_no_training_dialogue(data_folder: Path) -> None:
    def services(split: str) -> list[set[str]]:
        dialogues = read_jsonl_xz(data_folder / "sgd_dialogues_train.jsonl.xz")
        ids = {sample.meta["dialogue"] for sample in first("sgd", data_folder, 1_500, split)}
        return [set(dialogue["services"]) for dialogue in dialogues if dialogue["id"] in ids]

    train, calibration = services("train"), services("calibration")
    held_out = {s for d in [*train, *calibration] for s in d if not sgd.in_service_split(s, "train")}
    assert len(held_out) >= 2 and len(train) > 50 and len(calibration) > 50
    assert not any(d & held_out for d in train) and all(d & held_out for d in calibration)
    tools = sgd.read_catalogues(RecipeContext(data_folder), "train")["original"].tools
    hidden = {card["function"]["name"] for name, card in tools.items() if name.split(".")[0] in held_out}
    shown = {spec.name for sample in first("sgd", data_folder, 1_500) for spec in sample.specs}
    assert hidden and not hidden & shown


def test_no_training_sample_shows_a_function_that_only_the_test_split_calls(data_folder: Path) -> None:
    requests = list(read_jsonl_xz(data_folder / sealtools.CALLS))
    unseen = sealtools.called(requests, "test") - sealtools.called(requests, "train")
    assert len(unseen) > 500
    for name in ("sealtools", "function_search"):
        shown = {spec.name for sample in first(name, data_folder, 5_000) for spec in sample.specs}
        assert len(shown) > 500 and not shown & {sealtools.function_name(api) for api in unseen}, name


def test_a_need_names_the_card_by_its_meaning(data_folder: Path) -> None:
    assert function_search._in_words("getGNUFileSize_v2") == "get gnu file size v 2"
    samples = first("function_search", data_folder, 3_000)
    assert all(len(sample.specs) == 1 for sample in samples)
    bare = [sample for sample in samples if not sample.specs[0].description]
    asking = [sample for sample in samples if sample.meta["trigger"] == "ask_missing"]
    assert len(bare) > 100 and len(asking) > 300
    for sample in asking:
        function, parameter = sample.meta["asks_for"]
        assert sample.specs[0].name == function and parameter in sample.specs[0].required
