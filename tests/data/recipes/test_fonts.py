"""Fonts of the machine: no glyph is ever missing, families are in one split, and one font is enough."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from multimodal_ai.data.recipes import RECIPES, RecipeContext, fonts
from multimodal_ai.data.recipes.fonts import KINDS, characters, draw_face, faces, family_of, split_faces


def _forget() -> None:
    for cached in (faces, split_faces, fonts._families):
        cached.cache_clear()


@pytest.fixture
def only_bundled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without any fonts but those that matplotlib brings."""
    monkeypatch.setattr(fonts, "FOLDERS", (Path("/nowhere"),))
    _forget()
    yield
    _forget()


def test_a_machine_without_fonts_has_those_of_matplotlib(only_bundled: None) -> None:
    assert {face.family for face in faces()} >= {"dejavu sans", "dejavu sans mono", "dejavu serif"}
    for split in ("train", "test"):
        for kind in KINDS:
            assert draw_face(Random(0), split, "Total: 12.30 é€", kind).covers("Total: 12.30 é€")


@pytest.mark.parametrize("name", ["rendered_lines", "rendered_receipts", "rendered_scenes"])
def test_few_fonts_are_enough_to_render(name: str, only_bundled: None) -> None:
    for split in ("train", "test"):
        count = 60 if name == "rendered_scenes" else 10
        assert len(list(RECIPES[name].build(RecipeContext(limit=count), split))) == count


def test_no_font_at_all_is_an_error(only_bundled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="install one"):
        faces()


def test_a_character_that_no_font_has_is_an_error() -> None:
    with pytest.raises(ValueError, match="no font on this machine"):
        draw_face(Random(0), "train", "\U0010fffd")


def test_a_font_without_the_character_is_passed_over() -> None:
    plain = [face for face in faces() if not face.covers("Ж")]
    for seed in range(20):
        face = draw_face(Random(seed), "train", "Ж", "sans")
        assert face not in plain and "Ж" in characters(face.path, face.kind)


def test_capitals_alone_are_not_taken_for_small_letters() -> None:
    for face in faces():
        if face.family == "bebas neue":
            assert face.covers("TOTAL 12") and not face.covers("Total 12")
            return
    pytest.skip("no font of capitals alone is installed")


def test_families_are_in_one_split() -> None:
    if len({face.family for face in faces()}) < 20:
        pytest.skip("too few fonts to be told apart")
    train, test = ({face.family for face in split_faces(split)} for split in ("train", "test"))
    assert train and test and not train & test


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Lato Black", "lato"),
        ("Open Sans Condensed Light", "open sans"),
        ("Fira Code SemiBold", "fira code"),
        ("DejaVu Sans Mono", "dejavu sans mono"),
        ("Courier 10 Pitch", "courier 10 pitch"),
        ("Black", "black"),
    ],
)
def test_weights_and_widths_are_no_part_of_a_family(name: str, family: str) -> None:
    assert family_of(name) == family
