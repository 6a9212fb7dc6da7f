"""Library text: prose only, parsed and never executed, modules divided between the splits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from multimodal_ai.data.recipes import RECIPES, RecipeContext, stdlib_text
from multimodal_ai.data.recipes.stdlib_text import MAX_CHARACTERS, MIN_CHARACTERS, modules, paragraphs

LONG = "The quick brown fox jumps over the lazy dog while the evening sun slowly sinks behind the distant hills. "


def test_code_lists_and_tables_are_left_out() -> None:
    text = f"""Return a thing.

    {LONG}

    >>> f(1)
    2

    - an item that is long enough to be taken for a paragraph of prose if nobody looks at the dash in front.

    Name    Value
    ====    =====
    """
    assert list(paragraphs(text)) == [LONG.strip()]


def test_markup_is_taken_off() -> None:
    text = f"See :func:`os.path.join` and ``sep``, which are *often* used together with :class:`~a.B`. {LONG}"
    assert next(paragraphs(text)).startswith("See os.path.join and sep, which are often used together with a.B.")


def test_short_blocks_are_joined_and_long_ones_cut() -> None:
    joined = list(paragraphs(f"{LONG}\n\nIt can be called as often as needed by anyone."))
    assert joined == [f"{LONG}It can be called as often as needed by anyone."]
    pieces = list(paragraphs(LONG * 20))
    assert len(pieces) > 1 and all(MIN_CHARACTERS <= len(piece) <= MAX_CHARACTERS for piece in pieces)


@pytest.fixture
def some_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [
        item
        for item in modules()
        if item[0].split(".")[0] in ("argparse", "logging", "email", "json", "this", "random")
    ]
    monkeypatch.setattr(stdlib_text, "modules", lambda: chosen)


def test_splits_share_no_text_and_nothing_is_executed(some_modules: None) -> None:
    sys.modules.pop("this", None)
    rows = {split: list(RECIPES["stdlib_text"].build(RecipeContext(), split)) for split in ("train", "test")}
    texts = {split: [sample.messages[0].text for sample in samples] for split, samples in rows.items()}
    assert len(texts["train"]) > 100
    assert not set(texts["train"]) & set(texts["test"])
    assert len(set(texts["train"])) == len(texts["train"])
    assert all(MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS for text in texts["train"] + texts["test"])
    assert {sample.meta["module"] for sample in rows["train"]}.isdisjoint(
        sample.meta["module"] for sample in rows["test"]
    )
    assert "this" not in sys.modules


def test_a_file_that_does_not_parse_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:\n")
    monkeypatch.setattr(stdlib_text, "modules", lambda: [("broken", broken)])
    assert list(RECIPES["stdlib_text"].build(RecipeContext(), "train")) == []


def test_hundreds_of_modules_are_found() -> None:
    names = [name for name, _ in modules()]
    assert len(names) > 300 and "argparse" in names and "pydoc_data.topics" in names
    assert not any("site-packages" in str(path) for _, path in modules())
