"""What recipes share: splits by hash, chance by key, readers, limits and errors."""

from __future__ import annotations

import json
import lzma
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_ai.data.recipes import RECIPES, RecipeContext, get_recipe
from multimodal_ai.data.recipes.common import (
    ImageArchive,
    Recipe,
    Row,
    assistant,
    function_name,
    hash_fraction,
    in_split,
    linked_groups,
    offer,
    read_jsonl_xz,
    read_lines_xz,
    row,
    shuffled,
    stream,
    text_row,
    tool,
    user,
)


@given(st.text(), st.floats(0.01, 0.99))
def test_every_group_is_in_exactly_one_split(key: str, share: float) -> None:
    assert in_split(key, "train", share) != in_split(key, "test", share)


def test_the_test_split_takes_its_share_of_groups() -> None:
    taken = sum(in_split(f"group {number}", "test", 0.2) for number in range(5_000))
    assert 0.18 < taken / 5_000 < 0.22


def test_hash_is_the_same_on_every_machine() -> None:
    assert hash_fraction("note") == pytest.approx(0.9285338749783204)


def test_items_that_share_a_name_are_one_group_called_after_the_commonest() -> None:
    names = [("RSTORAN", "at 1"), ("RESTORAN", "at 1"), ("RESTORAN", "at 2"), ("CAFE", "at 3"), ("BAKERY", "at 2")]
    assert linked_groups(names) == ["RESTORAN", "RESTORAN", "RESTORAN", "CAFE", "RESTORAN"]
    assert linked_groups([("B", "x"), ("A", "x")]) == ["A", "A"]
    assert linked_groups([]) == []


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3), max_size=12))
def test_groups_do_not_depend_on_the_order(names: list[list[str]]) -> None:
    groups = linked_groups(names)
    for one, group in zip(names, groups, strict=True):
        for other, its in zip(names, groups, strict=True):
            assert group == its or not set(one) & set(other)
    assert linked_groups(names[::-1]) == groups[::-1]


def test_streams_depend_on_their_key_alone() -> None:
    assert stream("a", 1).random() == stream("a", 1).random()
    assert stream("a", 1).random() != stream("a", 2).random()
    assert shuffled(range(20), "x") == shuffled(range(20), "x") != shuffled(range(20), "y")


@given(st.integers(0, 9), st.integers(0, 9), st.randoms(use_true_random=False))
def test_offer_keeps_gold_and_repeats_no_name(gold: int, count: int, rng: Random) -> None:
    cards = [tool(f"f{number % 7}", "", {}, ()) for number in range(14)]
    golden = [tool(f"g{number}", "", {}, ()) for number in range(gold)]
    names = [card["function"]["name"] for card in offer(rng, golden, cards, count)]
    assert len(names) == len(set(names))
    assert {card["function"]["name"] for card in golden} <= set(names)
    assert len(names) <= gold + count


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Banks_1.CheckBalance", "Banks_1_CheckBalance"), ("PDF&URLTool", "PDF_URLTool"), ("a b", "a_b")],
)
def test_function_names_are_accepted_everywhere(name: str, expected: str) -> None:
    assert function_name(name) == expected
    assert len(function_name("x" * 200)) == 64


def _numbers(context: RecipeContext, split: str) -> Iterator[Row]:
    for number in range(100):
        turns = [user("?"), assistant(str(number))]
        yield text_row("numbers", str(number)) if number % 2 else row("numbers", "chat", turns)


NUMBERS = Recipe("numbers", "none", "test", ("train",), _numbers, sizes={"train": 10})


def test_limit_and_size_and_tasks() -> None:
    def texts(context: RecipeContext) -> list[str]:
        return [sample.messages[-1].text for sample in NUMBERS.build(context, "train")]

    assert texts(RecipeContext()) == [str(number) for number in range(10)]
    assert texts(RecipeContext(limit=3)) == ["0", "1", "2"]
    assert texts(RecipeContext(limit=3, tasks=frozenset({"text"}))) == ["1", "3", "5"]


def test_unknown_split_and_recipe_name_what_there_is() -> None:
    with pytest.raises(ValueError, match="has no split 'dev'; it has train"):
        list(NUMBERS.build(RecipeContext(), "dev"))
    with pytest.raises(ValueError, match=r"no recipe 'digit'; there are .*digits"):
        get_recipe("digit")


def test_missing_source_says_how_to_name_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--from FOLDER"):
        list(RECIPES["snips"].build(RecipeContext(), "train"))
    with pytest.raises(ValueError, match=r"snips\.jsonl\.xz: no such file; .* --from FOLDER"):
        list(RECIPES["snips"].build(RecipeContext(tmp_path), "train"))


def test_registry_describes_every_recipe() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.licence and recipe.description
        assert "train" in recipe.splits and "test" in recipe.splits
        assert not recipe.sizes or set(recipe.sizes) == set(recipe.splits)


def test_readers(tmp_path: Path) -> None:
    packed = tmp_path / "a.jsonl.xz"
    packed.write_bytes(lzma.compress('{"a": "é"}\n{"a": 2}\n'.encode()))
    assert list(read_jsonl_xz(packed)) == [{"a": "é"}, {"a": 2}]
    assert list(read_lines_xz(packed))[1] == '{"a": 2}'
    packed.write_bytes(lzma.compress(b'{"a": 1}\n{"a": \n'))
    with pytest.raises(ValueError, match=r"line 2 of a\.jsonl\.xz: not a JSON object"):
        list(read_jsonl_xz(packed))


def test_image_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("0.webp", b"pixels")
        file.writestr("index.jsonl", json.dumps({"image": "0.webp", "caption": "x"}) + "\n")
        file.writestr("more.json", "[1]")
    archive = ImageArchive(tmp_path / "a.zip")
    assert archive.image(archive.entries[0]) == b"pixels"
    assert archive.json("more.json") == [1]
