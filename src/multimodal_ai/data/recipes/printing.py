"""Prints lines of text and photographs them: ink, paper, wear, a crooked scan, noise and compression.

Everything is drawn twice as large and brought to its size by one warp, so that letters are as soft as in a real
scan. What is printed stays legible: noise and blur are drawn in proportion to the contrast and the size of the
letters, and nothing here may hide a character.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFilter, ImageFont

from multimodal_ai.data.recipes.fonts import Face

SCALE = 2  # drawn pixels to a pixel of the image

Pixels = npt.NDArray[np.float32]
Colour = int | tuple[int, int, int]


@dataclass(frozen=True)
class Type:
    """How a line is set: `cap` is the height of a capital in pixels of the image."""

    face: Face
    cap: float
    stretch: float = 1.0
    spacing: float = 0.0  # extra pixels between letters
    bold: bool = False

    @property
    def size(self) -> int:
        """Pixels to the em of the drawn font."""
        return max(6, round(self.cap * SCALE / cap_share(self.face)))


@functools.lru_cache(maxsize=4096)
def cap_share(face: Face) -> float:
    """Height of a capital (of a digit, where there are no letters) as a share of the em."""
    _, top, _, bottom = face.at(100).getbbox("0" if face.kind == "segments" else "H")
    return max(0.3, (bottom - top) / 100)


def _render(font: ImageFont.FreeTypeFont, text: str) -> tuple[Image.Image, int, int]:
    """A text as a mask, and where its left and top edge stand from the origin of its baseline."""
    core, (left, top) = font.getmask2(text, "L", anchor="ls")
    mask = Image.new("L", (max(1, core.size[0]), max(1, core.size[1])))
    if all(core.size):
        mask.im.paste(core, (0, 0, *core.size))
    return mask, int(left), int(top)


def set_line(text: str, style: Type) -> tuple[Image.Image, int]:
    """A line as a mask (`L`, ink is 255) at SCALE, and the row in it on which the letters stand.

    The mask reaches from the highest to the lowest ink and is at least one pixel in size.
    """
    font = style.face.at(style.size)
    if style.spacing:
        pieces, x = [], 0.0
        for char in text:
            pieces.append((x, *_render(font, char)))
            x += font.getlength(char) + style.spacing * SCALE
        top = min(piece[3] for piece in pieces)
        bottom = max(piece[3] + piece[1].height for piece in pieces)
        mask = Image.new("L", (max(1, math.ceil(x) + 4), max(1, bottom - top)))
        for x, letter, left, above in pieces:
            mask.paste(255, (round(x) + left + 2, above - top), letter)
    else:
        mask, _, top = _render(font, text)
    if style.bold:  # struck twice, one pixel apart
        wider = Image.new("L", (mask.width + 1, mask.height))
        wider.paste(mask)
        mask = ImageChops.lighter(wider, ImageChops.offset(wider, 1, 0))
    if abs(style.stretch - 1) > 0.02:
        width = max(1, round(mask.width * style.stretch))
        mask = mask.resize((width, mask.height), Image.Resampling.BILINEAR)
    return mask, -top


def text_width(text: str, style: Type) -> float:
    """About how many pixels of the image the line takes."""
    return (style.face.at(style.size).getlength(text) / SCALE + style.spacing * len(text)) * style.stretch


def draw_type(rng: Random, face: Face, cap: float | None = None) -> Type:
    """A size, a stretch and a weight as receipts and labels have them."""
    if cap is None:
        cap = rng.triangular(6.0, 15.0, 8.5)
    if face.kind == "hand":
        cap = max(9.0, cap * 1.25)
    wide = rng.random()
    stretch = rng.uniform(0.8, 1.15) if wide < 0.8 else rng.uniform(0.65, 0.8) if wide < 0.9 else rng.uniform(1.15, 1.7)
    if face.kind == "hand" or cap < 7:
        stretch = max(0.95, stretch)
    spacing = rng.uniform(0.3, 2.0) if rng.random() < 0.06 and face.kind != "hand" else 0.0
    return Type(face, cap, stretch, spacing, cap > 8 and rng.random() < 0.12)


def fitting(style: Type, lines: Sequence[str], width: float) -> Type:
    """The style, narrower or smaller where the longest line would be wider than `width` pixels.

    Letters never get smaller than 6 pixels: a very long line stays wider.
    """
    if max(map(len, lines)) * style.cap * max(1.0, style.stretch) * 1.3 + style.spacing * 40 < width:
        return style  # it fits for certain; measuring costs as much as drawing
    wide = max(text_width(text, style) for text in lines)
    if wide > width and style.spacing:
        style = replace(style, spacing=0.0)
        wide = max(text_width(text, style) for text in lines)
    if wide > width and style.stretch > 0.85:
        stretch = max(0.85, style.stretch * width / wide)
        wide, style = wide * stretch / style.stretch, replace(style, stretch=stretch)
    return replace(style, cap=max(6.0, style.cap * width / wide)) if wide > width else style


def set_block(lines: Sequence[str], style: Type, rng: Random, neighbours: Sequence[str] = ()) -> Image.Image:
    """One to a few lines as a mask at SCALE with a margin around them.

    `neighbours` are up to two other lines, above and below, of which only what reaches into the margin is seen.
    """
    masks = [set_line(text, style) for text in lines]
    cap = round(style.cap * SCALE)
    pitch = round(cap * rng.uniform(1.5, 2.0))
    margin = round(rng.uniform(1.5, 5) * SCALE)
    width = max(mask.width for mask, _ in masks)
    left, right = (round(rng.uniform(1.5, 6) * SCALE) for _ in range(2))
    lift = max(cap, masks[0][1])  # from the top of the first line's ink to its baseline
    foot = max(0, masks[-1][0].height - masks[-1][1])
    baselines = [margin + lift + pitch * place for place in range(-1, len(lines) + 1)]
    height = baselines[-2] + foot + margin
    canvas = Image.new("L", (left + width + right, height), 0)
    align = rng.choice((0.0, 0.0, 0.5, 0.5, 1.0))
    for (mask, rise), baseline in zip(masks, baselines[1:], strict=False):
        canvas.paste(255, (left + round((width - mask.width) * align), baseline - rise), mask)
    for text, baseline, gap in zip(
        neighbours, (baselines[0], baselines[-1]), (margin - 2, height - margin + 2), strict=False
    ):
        mask, rise = set_line(text, style)
        y = baseline - rise
        above = baseline < baselines[1]
        keep = (0, 0, mask.width, gap - y) if above else (0, max(0, gap - y), mask.width, mask.height)
        if keep[3] > keep[1]:
            canvas.paste(255, (left + rng.randint(-20, 20), y + keep[1]), mask.crop(keep))
    return canvas


# -- wear ------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _grain(kind: int) -> Pixels:
    """A sheet of noise, float32[512, 1024] of unit deviation: fine, coarse, or in blotches."""
    noise = np.random.default_rng(kind).normal(0, 1, (512, 1024)).astype(np.float32)
    if kind:
        image = Image.fromarray(np.clip(noise * 40 + 128, 0, 255).astype(np.uint8))
        noise = np.asarray(image.filter(ImageFilter.GaussianBlur((0, 0.8, 3)[kind])), np.float32)
        noise = (noise - noise.mean()) / noise.std()
    return np.ascontiguousarray(noise)


def grain(rng: Random, height: int, width: int) -> Pixels:
    """A window of a sheet of noise, float32[height, width] of unit deviation; larger sizes repeat the sheet."""
    sheet = _grain(rng.choice((0, 0, 1, 1, 2)))
    while sheet.shape[0] < height or sheet.shape[1] < width:
        sheet = np.tile(sheet, (1 + (sheet.shape[0] < height), 1 + (sheet.shape[1] < width)))
    y, x = rng.randint(0, sheet.shape[0] - height), rng.randint(0, sheet.shape[1] - width)
    return sheet[y : y + height, x : x + width]


def _dots(height: int, width: int, pitch: float) -> Pixels:
    """The dots of a needle printer, float32[height, width] in 0..1, `pitch` drawn pixels apart."""
    down, across = (
        0.5 + 0.5 * np.cos(np.arange(count, dtype=np.float32) * (2 * np.pi / pitch)) for count in (height, width)
    )
    return (0.25 + 0.75 * np.sqrt(np.outer(down, across))).astype(np.float32)


def wear(mask: Image.Image, rng: Random, cap: float, needles: bool) -> Image.Image:
    """The mask with uneven ink: dots, thin streaks, pale patches. About half of all masks stay whole."""
    kind = rng.random()
    if kind < 0.5 and not needles:
        return mask
    ink = np.asarray(mask, np.float32)
    height, width = ink.shape
    if needles:  # seven to nine of them make a capital
        ink = ink * _dots(height, width, max(2.0, cap * SCALE / rng.choice((7, 8, 9))))
    elif kind < 0.68:  # lines that the print head left out
        ink = ink.copy()
        for _ in range(rng.randint(1, 2)):
            ink[rng.randrange(height)] *= rng.uniform(0.1, 0.6)
        if rng.random() < 0.3:
            ink[:, :: rng.choice((3, 4, 5))] *= rng.uniform(0.4, 0.8)
    elif kind < 0.85:  # paler towards one side or in a wave
        phase, length = rng.uniform(0, 2 * math.pi), rng.uniform(80, 600)
        ink = ink * (0.72 + 0.28 * np.sin(np.arange(width, dtype=np.float32) / length * 2 * math.pi + phase))
    else:  # ink that did not hold everywhere
        ink = ink * np.clip(0.85 + rng.uniform(0.1, 0.28) * grain(rng, height, width), 0.15, 1)
    return Image.fromarray(ink.astype(np.uint8))


def warp(mask: Image.Image, rng: Random) -> Image.Image:
    """The mask at the size of the image, a little turned, slanted or seen from aside."""
    width, height = max(4, round(mask.width / SCALE)), max(4, round(mask.height / SCALE))
    kind = rng.random()
    turn = slant = px = py = 0.0
    if kind < 0.5:  # the ends of a long line must stay inside, so it may turn less
        turn = rng.uniform(-1, 1) * min(0.03, 2.0 / width)
        slant = rng.uniform(-1, 1) * min(0.12, 3.0 / height) if rng.random() < 0.3 else 0.0
    if kind < 0.12:
        px, py = rng.uniform(-0.12, 0.12) / width, rng.uniform(-0.12, 0.12) / height
    return projected(mask, (width, height), turn, slant, px, py)


def projected(
    image: Image.Image,
    size: tuple[int, int],
    turn: float,
    slant: float,
    px: float,
    py: float,
    ground: Colour = 0,
    room: float = 1.0,
) -> Image.Image:
    """The image scaled to `size` with its lines at a slope of `turn`, its columns of `slant`, seen in perspective.

    `px` and `py` are the changes of scale per pixel of the result, to the right and downwards. The middle stays
    where it is; all of it shrinks so that perspective puts nothing outside, and by `room` besides. `ground` fills
    what is left.
    """
    width, height = size
    # u = x - cx, v = y - cy of the result become (mx + (a u + b v) / (1 + px u + py v), ...) of the image
    room *= 1 + (abs(px) * width + abs(py) * height) / 2
    sx, sy = image.width / width, image.height / height
    cx, cy, mx, my = width / 2, height / 2, image.width / 2, image.height / 2
    a, b, d, e = sx * room, sx * slant, sy * turn, sy * room
    if not (px or py):
        data: tuple[float, ...] = (a, b, mx - a * cx - b * cy, d, e, my - d * cx - e * cy)
        method = Image.Transform.AFFINE
    else:
        one = 1 - px * cx - py * cy
        across = (a + mx * px, b + mx * py, mx * one - a * cx - b * cy)
        down = (d + my * px, e + my * py, my * one - d * cx - e * cy)
        data = tuple(value / one for value in (*across, *down, px, py))
        method = Image.Transform.PERSPECTIVE
    return image.transform(size, method, data, Image.Resampling.BILINEAR, fillcolor=ground)


def soften(mask: Image.Image, rng: Random, cap: float) -> Image.Image:
    """The mask out of focus, or as if it had been scanned smaller; letters of less than 7 pixels stay sharp."""
    kind = rng.random()
    if kind < 0.35 or cap < 7:
        return mask
    if kind < 0.8:
        return mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, min(1.1, cap / 11))))
    share = max(6.5 / cap, rng.uniform(0.6, 0.9))
    small = mask.resize(
        (max(4, round(mask.width * share)), max(4, round(mask.height * share))), Image.Resampling.BILINEAR
    )
    return small.resize(mask.size, Image.Resampling.BICUBIC)


def expose(
    mask: Image.Image,
    rng: Random,
    colour: float = 0.2,
    inverted: float = 0.06,
    faint: float = 0.32,
    light: Callable[[Pixels, Random], Pixels] | None = None,
) -> npt.NDArray[np.uint8]:
    """Ink on paper as a scanner or camera saw it: uint8[h, w], or uint8[h, w, 3] for a share of `colour`.

    `inverted` and `faint` are the shares of light print on dark ground and of pale print; `light` puts light and
    shadow on the page (float32[h, w] of grey levels), else a slope of light lies on a quarter of the images.
    """
    ink = np.asarray(mask, np.float32) * np.float32(1 / 255)
    height, width = ink.shape
    paper, pale = rng.triangular(165, 256, 250), rng.random() < faint
    inked = ink[ink > 0.15]
    strength = float(inked.mean()) if inked.size else 0.5
    contrast = (rng.uniform(0.3, 0.6) if pale else rng.uniform(0.6, 1.0)) * paper
    contrast = min(paper, contrast * max(1.0, 0.5 / strength))  # thin strokes are printed darker
    style = rng.random()
    if style < 0.08 and not pale:  # black and white, as a fax makes it
        level = ink + grain(rng, height, width) * np.float32(0.05)
        image = np.where(level > rng.uniform(0.45, 0.65) * strength, np.float32(paper - contrast), np.float32(paper))
    else:
        if style > 0.5 and not pale:
            ink = np.minimum(ink * np.float32(rng.uniform(1.0, 1.5)), np.float32(1))
        image = paper - ink * np.float32(contrast)
        if light is not None:
            image = light(image, rng)
        elif rng.random() < 0.25:
            image *= np.linspace(rng.uniform(0.82, 1.0), 1.0, width, dtype=np.float32)[:: rng.choice((1, -1))]
        noise = rng.choice((0.0, 0.5, rng.uniform(1, 4), rng.uniform(2, max(3, contrast / 12))))
        if noise:
            image += grain(rng, height, width) * np.float32(noise)
    if rng.random() < inverted:
        image = 255 - image
    if rng.random() < colour:
        image = image[:, :, None] * _tint(rng)
    return np.clip(image, 0, 255).astype(np.uint8)


def _tint(rng: Random) -> Pixels:
    """Factors of the three channels, float32[3]: yellowed paper, cold light, or a coloured label."""
    if rng.random() < 0.6:
        warm = rng.uniform(0.75, 1.0)
        return np.array((1.0, (1 + warm) / 2, warm), np.float32)[:: rng.choice((1, 1, -1))]
    return np.array([rng.uniform(0.55, 1.0) for _ in range(3)], np.float32)


def encode(pixels: npt.NDArray[np.uint8], rng: Random, jpeg: float = 0.7, best: int = 92) -> bytes:
    """The image as a JPEG file of quality 40 to `best` for a share of `jpeg`, else as PNG in steps of four levels."""
    file = io.BytesIO()
    if rng.random() < jpeg:
        Image.fromarray(pixels).save(file, "JPEG", quality=round(rng.triangular(40, best, best - 12)))
    else:
        Image.fromarray(pixels & 0xFC).save(file, "PNG", compress_level=3)
    return file.getvalue()


def print_lines(
    lines: Sequence[str], style: Type, rng: Random, neighbours: Sequence[str] = (), needles: bool = False
) -> bytes:
    """An image file of one line or a short block of lines, printed and scanned."""
    mask = set_block(lines, style, rng, neighbours)
    mask = warp(wear(mask, rng, style.cap, needles), rng)
    return encode(expose(soften(mask, rng, style.cap), rng), rng)
