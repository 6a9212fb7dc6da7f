"""The fonts of this machine: which there are, what each can print, and which split may use it.

Rendered data reads more like the world the more fonts there are (docs/recipes.md names free packages); the DejaVu
fonts that matplotlib brings are always there. A text is never set in a font that lacks one of its characters:
a box where a letter should be would teach a model to guess. Which fonts there are is part of the source that
a rendered dataset depends on; where they lie is not.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fontTools.ttLib import TTFont, TTLibError
from PIL import ImageFont

from multimodal_ai.data.recipes.common import in_split

FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path.home() / ".local/share/fonts",
    Path("/Library/Fonts"),
)
TEST_SHARE = 0.15  # of the families
KINDS = ("mono", "sans", "serif", "hand", "segments")

_LOWER = "abcdefghijklmnopqrstuvwxyz"
_STYLE = re.compile(
    r"\b(thin|hairline|(extra|ultra|semi|demi)?[- ]?(light|bold|cond|condensed)|regular|book|medium|black|heavy|fat|"
    r"narrow|italic|oblique|roman|[0-9]{1,2}pt|w[1-9]|lf|tf|std|no2)\b",
    re.I,
)
# No letters that a person reads at a glance: symbols, outlines, small capitals, connected or broken scripts.
_SKIPPED = re.compile(
    r"dingbat|d050000l|symbol|math|music|emoji|outline|smallcap|\bsc\b|small ?caps|lastresort|initials|barcode|"
    r"keyboard|weather|rufscript|kristi|breip|gnutypewriter|7seggchan|inverted",
    re.I,
)
_SERIF = re.compile(
    r"serif|roman|times|tribun|charis|gentium|libertine|oldstandard|old standard|schola|termes|pagella|bonum|vollkorn|"
    r"caladea|quattrocento$|slab|tinos|didot|cmu",
    re.I,
)
_HAND = re.compile(
    r"hand|bwht|dancing|femke|humor|sjfonts|delphine|steve|tomson|chancery|chorus|comic|script|"
    r"because|kaushan",
    re.I,
)


@dataclass(frozen=True)
class Face:
    """One font file: its family without words of weight and width, and its kind (one of KINDS)."""

    path: str
    family: str
    style: str
    kind: str

    @property
    def slanted(self) -> bool:
        """Whether it is an italic or oblique style."""
        return bool(re.search("italic|oblique|inclined", self.style, re.I))

    def covers(self, text: str) -> bool:
        """Whether the font has a glyph of its own for every character of the text (spaces and newlines apart)."""
        return characters(self.path, self.kind).issuperset(text.replace(" ", "").replace("\n", ""))

    def at(self, size: int) -> ImageFont.FreeTypeFont:
        """The font at `size` pixels to the em, without ligatures."""
        return _loaded(self.path, size)


@functools.lru_cache(maxsize=4096)
def _loaded(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def characters(path: str, kind: str = "sans") -> frozenset[str]:
    """What a font file can print, from its character map; no small letters where they look like capitals."""
    try:
        with TTFont(path, lazy=True, fontNumber=0) as font:
            found = frozenset(map(chr, font.getBestCmap() or ()))
    except (TTLibError, OSError, ValueError, KeyError, AssertionError):
        return frozenset()
    if kind == "segments":
        return found & frozenset("0123456789:.-")
    small, large = (_loaded(path, 64).getmask(text).size[1] for text in ("aenrs", "AENRS"))
    if small > 0.88 * large:
        return found - frozenset(_LOWER)
    return found


def family_of(name: str) -> str:
    """The family without words of weight and width, so that all its styles are in one split."""
    return " ".join(_STYLE.sub(" ", name.replace("_", " ").lower()).split()) or name.lower()


def _kind(font: ImageFont.FreeTypeFont, family: str) -> str:
    if "dseg" in family:
        return "segments"
    widths = {font.getlength(char) for char in "iMW.0"}
    if len(widths) == 1:
        return "mono"
    if _HAND.search(family):
        return "hand"
    return "serif" if _SERIF.search(family) and "sans" not in family else "sans"


def _files() -> Iterable[Path]:
    for folder in FOLDERS:
        yield from sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf"))
    found = importlib.util.find_spec("matplotlib")
    if found is not None and found.origin is not None:
        yield from sorted((Path(found.origin).parent / "mpl-data/fonts/ttf").glob("DejaVu*.ttf"))


@functools.lru_cache(maxsize=1)
def faces() -> tuple[Face, ...]:
    """Every readable font of the machine, in an order free of paths.

    Raises ValueError where there is none at all.
    """
    found: dict[tuple[str, str], Face] = {}
    for path in _files():
        try:
            font = _loaded(str(path), 32)
        except OSError:
            continue
        name, style = font.getname()
        label = f"{name or path.stem} {style or ''} {path.stem}"
        if _SKIPPED.search(label):
            continue
        family = family_of(name or path.stem)
        found.setdefault(
            (family, f"{name} {style} {path.stem}"), Face(str(path), family, style or "", _kind(font, family))
        )
    if not found:
        raise ValueError(
            f"no fonts in {', '.join(map(str, FOLDERS))}; install one, such as the package fonts-dejavu-core"
        )
    return tuple(face for _, face in sorted(found.items()))


@functools.cache
def split_faces(split: str, kind: str | None = None) -> tuple[Face, ...]:
    """Faces of the families of a split, of one kind or of all but segments.

    Families are told apart by hash, 15% for testing. A split, or a kind in it, that is left without a
    family (few fonts are installed) gets those of all kinds, and in the end all there are.
    """
    able = [face for face in faces() if face.kind == kind or (kind is None and face.kind != "segments")]
    mine = [face for face in able if in_split(f"font {face.family}", split, TEST_SHARE)]
    if mine:
        return tuple(mine)
    if kind is None:
        return tuple(able)
    return tuple(able) if kind == "segments" and able else split_faces(split)


def draw_face(rng: Random, split: str, text: str, kind: str | None = None) -> Face:
    """A face of the split that has every character of the text, each family as likely as another, upright by choice.

    Raises ValueError if no font on the machine has them all.
    """
    families = _families(split, kind)
    for _ in range(20):
        face = rng.choice(rng.choice(families))
        if face.slanted and rng.random() < 0.7:
            continue
        if face.covers(text):
            return face
    for able in (split_faces(split, kind), split_faces(split), faces()):
        fitting = [face for face in able if face.covers(text)]
        if fitting:
            return rng.choice(fitting)
    raise ValueError(f"no font on this machine has every character of {text!r}; install one that does")


@functools.cache
def _families(split: str, kind: str | None) -> tuple[tuple[Face, ...], ...]:
    found: dict[str, list[Face]] = {}
    for face in split_faces(split, kind):
        found.setdefault(face.family, []).append(face)
    return tuple(tuple(group) for group in found.values())
