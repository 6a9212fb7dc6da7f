"""Draws meter plates and payment slips of real handwritten digits, with a printed unit or currency.

The digits are scikit-learn's 1,797 scans of 8x8 pixels, doubled in size; 20% of each class are kept for the
test split. Drawing is NumPy on one small array per image, fast enough to be done while a dataset is written.
"""

from __future__ import annotations

import functools
import struct
import zlib
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

HEIGHT = 32
CELL = 16
TEST_SHARE = 0.2

Mask = npt.NDArray[np.float32]


@functools.lru_cache(maxsize=1)
def _digit_bank() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """All digits as masks float32[1797, 16, 16] of ink in 0..1, and their classes int64[1797]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    masks = np.empty((len(digits.target), CELL, CELL), np.float32)
    for index, image in enumerate(digits.images):
        small = Image.fromarray((image * (255 / 16)).astype(np.uint8))
        masks[index] = np.asarray(small.resize((CELL, CELL), Image.Resampling.BICUBIC), np.float32)
    masks *= np.float32(1.15 / 255)  # a pen presses a little harder than the scan shows
    return np.minimum(masks, np.float32(1)), digits.target.astype(np.int64)


@functools.lru_cache(maxsize=8)
def digit_pools(seed: int, split: str) -> tuple[tuple[int, ...], ...]:
    """Indices of the digit images of a split, one tuple for each class 0 to 9."""
    classes = _digit_bank()[1]
    pools = []
    for digit in range(10):
        indices = np.random.default_rng((seed, digit)).permutation(np.flatnonzero(classes == digit))
        held_out = round(TEST_SHARE * len(indices))
        pools.append(tuple(int(i) for i in (indices[:held_out] if split == "test" else indices[held_out:])))
    return tuple(pools)


@functools.lru_cache(maxsize=64)
def _printed(text: str, size: int) -> Mask:
    """Printed text as a mask float32[h, w] of ink in 0..1."""
    font = ImageFont.load_default(size=size)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    image = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=font)
    return np.asarray(image, np.float32) / np.float32(255)


@functools.lru_cache(maxsize=1)
def _grain() -> npt.NDArray[np.float32]:
    """A sheet of paper grain, float32[256, 512, 1] of about ±6 levels."""
    grain = np.random.default_rng(20_11).normal(0, 3, (256, 512, 1))
    return np.clip(grain, -6, 6).astype(np.float32)


def _colours(rng: Random) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Ink and background, one dark and one light, at least 110 levels apart in each channel."""
    dark = np.array([rng.randint(0, 70) for _ in range(3)], np.float32)
    light = np.array([rng.randint(180, 250) for _ in range(3)], np.float32)
    return (dark, light) if rng.random() < 0.9 else (light, dark)


def _varied(mask: Mask, rng: Random) -> Mask:
    """The digit a little turned, slanted and stretched, as another hand might have written it."""
    turn, slant = rng.uniform(-0.2, 0.2), rng.uniform(-0.25, 0.25)
    wide, high = rng.uniform(0.85, 1.15), rng.uniform(0.85, 1.15)
    a, b, c, d = wide, slant - turn, turn, high
    middle = (CELL - 1) / 2
    shift = (middle - a * middle - b * middle, middle - c * middle - d * middle)
    image = Image.fromarray(mask).transform(
        (CELL, CELL), Image.Transform.AFFINE, (a, b, shift[0], c, d, shift[1]), Image.Resampling.BILINEAR
    )
    return np.asarray(image)


def compose(
    text: str, label: str, pools: tuple[tuple[int, ...], ...], rng: Random, varied: bool = False
) -> tuple[bytes, list[int], list[tuple[int, int]]]:
    """A plate or slip as PNG bytes, 32 pixels high and 32 to 144 wide, the digit images used, and where each digit and
    at last the label stands: columns of pixels [from, to), cut at the edge.

    `text` holds digits and at most one decimal point, drawn as handwritten digits and a dot; `label`
    (unit or currency; empty for bare digits) is printed behind them, or before them for a slip now and then.
    `varied` distorts half of the digits a little.
    """
    bank, _ = _digit_bank()
    used: list[int] = []
    places: list[tuple[int, int]] = []
    printed = _printed(label, rng.randint(13, 15)) if label else np.zeros((1, 0), np.float32)
    before = "." in text and rng.random() < 0.3
    content = sum(CELL if char.isdigit() else 6 for char in text) + printed.shape[1] + 6
    width = max(64 if label else 32, -(-(content + (12 if label else 0)) // CELL) * CELL)
    ink = np.zeros((HEIGHT, width), np.float32)
    slack = width - content
    x = rng.randint(min(5, slack // 2), max(5, min(slack - 5, 12)))
    baseline = (HEIGHT - CELL) // 2 + rng.randint(-2, 2)
    label_at = x
    if before:
        x = _stamp(ink, printed, x, baseline + CELL - 2 - printed.shape[0]) + 6
    for char in text:
        if char == ".":
            _stamp(ink, np.ones((3, 3), np.float32), x + 1, baseline + CELL - 3)
            x += 6
            continue
        index = rng.choice(pools[int(char)])
        used.append(index)
        places.append((x, min(x + CELL, width)))
        _stamp(
            ink,
            _varied(bank[index], rng) if varied and rng.random() < 0.5 else bank[index],
            x,
            baseline + rng.randint(-1, 1),
        )
        x += CELL
    if not before:
        label_at = x + 6
        _stamp(ink, printed, label_at, baseline + CELL - 2 - printed.shape[0])
    places.append((label_at, min(label_at + printed.shape[1], width)))
    ink_colour, paper = _colours(rng)
    image = paper + ink[:, :, None] * (ink_colour - paper)
    if rng.random() < 0.7:
        thickness = rng.randint(1, 2)
        edge = paper + 0.55 * (ink_colour - paper)
        image[:thickness] = image[-thickness:] = edge
        image[:, :thickness] = image[:, -thickness:] = edge
    row_at, column_at = rng.randrange(256 - HEIGHT), rng.randrange(512 - width)
    image += _grain()[row_at : row_at + HEIGHT, column_at : column_at + width]
    return encode_png(np.clip(image, 0, 255).astype(np.uint8)), used, places


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """An RGB image uint8[h, w, 3] as PNG; every row with the `Sub` filter, half the time of Pillow's search."""
    height, width, _ = pixels.shape
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 1
    rows[:, 1:4] = pixels[:, 0]
    rows[:, 4:] = (pixels[:, 1:] - pixels[:, :-1]).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _stamp(ink: Mask, mask: Mask, x: int, y: int) -> int:
    """Puts a mask on the ink at (x, y), cut at the edges; returns the x behind it."""
    height, width = mask.shape
    y = max(0, min(y, ink.shape[0] - height))
    view = ink[y : y + height, x : x + width]
    np.maximum(view, mask[:, : view.shape[1]], out=view)
    return x + width
