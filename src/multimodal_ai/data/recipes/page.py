"""A sheet to print on: texts, rules, boxes and bars at SCALE, then crumpled, scanned or photographed.

Coordinates are pixels of the image. Nothing here knows what is printed; a page says what it holds only through
what its caller kept.
"""

from __future__ import annotations

import math
from random import Random
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from multimodal_ai.data.recipes.printing import (
    SCALE,
    Colour,
    Pixels,
    Type,
    expose,
    grain,
    projected,
    set_line,
    soften,
    wear,
)

Anchor = Literal["l", "c", "r"]


class Page:
    """A canvas of `width` by `height` pixels; grey (`L`) or in colour, as `paper` is a level or a triple."""

    def __init__(self, width: int, height: int, paper: Colour = 0) -> None:
        self.width, self.height = width, height
        mode = "L" if isinstance(paper, int) else "RGB"
        self.paper = paper
        self.image = Image.new(mode, (width * SCALE, height * SCALE), paper)
        self._draw = ImageDraw.Draw(self.image)

    def text(self, text: str, x: float, y: float, style: Type, anchor: Anchor = "l", ink: Colour = 255) -> float:
        """Prints `text` with its baseline at `y`, its left, middle or right at `x`; returns its width in pixels."""
        mask, rise = set_line(text, style)
        left = x * SCALE - mask.width * {"l": 0.0, "c": 0.5, "r": 1.0}[anchor]
        self.image.paste(ink, (round(left), round(y * SCALE) - rise), mask)
        return mask.width / SCALE

    def line(
        self, x0: float, y0: float, x1: float, y1: float, ink: Colour = 255, width: float = 1, dash: int = 0
    ) -> None:
        """A straight line; `dash` pixels on and off where it is not 0, which needs a level line."""
        thick = max(1, round(width * SCALE))
        if not dash:
            self._draw.line([v * SCALE for v in (x0, y0, x1, y1)], fill=ink, width=thick)
            return
        x = x0
        while x < x1:
            self._draw.line([v * SCALE for v in (x, y0, min(x + dash, x1), y1)], fill=ink, width=thick)
            x += 2 * dash

    def box(
        self, x0: float, y0: float, x1: float, y1: float, fill: Colour | None = None, ink: Colour | None = None,
        width: float = 1, radius: float = 0,
    ) -> None:  # fmt: skip
        """A rectangle, filled or drawn or both, with round corners of `radius` pixels."""
        edge = max(1, round(width * SCALE))
        self._draw.rounded_rectangle(
            [v * SCALE for v in (x0, y0, x1, y1)],
            radius * SCALE,
            fill=fill,
            outline=ink,
            width=edge if ink is not None else 0,
        )

    def ellipse(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        fill: Colour | None = None,
        ink: Colour | None = None,
        width: float = 1,
    ) -> None:
        """An ellipse in its box, filled or drawn or both."""
        edge = max(1, round(width * SCALE)) if ink is not None else 0
        self._draw.ellipse([v * SCALE for v in (x0, y0, x1, y1)], fill=fill, outline=ink, width=edge)

    def shape(
        self, points: list[tuple[float, float]], fill: Colour | None = None, ink: Colour | None = None, width: float = 1
    ) -> None:
        """A polygon, filled or drawn or both."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.polygon(scaled, fill=fill, outline=ink, width=max(1, round(width * SCALE)))

    def pie(self, x0: float, y0: float, x1: float, y1: float, start: float, end: float, fill: Colour) -> None:
        """A slice of the ellipse in the box, from `start` to `end` degrees."""
        self._draw.pieslice([v * SCALE for v in (x0, y0, x1, y1)], start, end, fill=fill)

    def curve(self, points: list[tuple[float, float]], ink: Colour = 255, width: float = 1) -> None:
        """A line through the points."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(scaled, fill=ink, width=max(1, round(width * SCALE)), joint="curve")

    def bars(self, rng: Random, x0: float, y0: float, x1: float, y1: float, ink: Colour = 255) -> None:
        """A bar code that stands for nothing."""
        x = x0
        while x < x1:
            thick = rng.choice((0.5, 1, 1, 1.5, 2))
            self._draw.rectangle([v * SCALE for v in (x, y0, min(x + thick, x1), y1)], fill=ink)
            x += thick + rng.choice((1, 1, 1.5, 2.5))

    def pen(self, rng: Random, x: float, y: float, size: float, ink: Colour = 200) -> None:
        """A ring or a tick drawn by hand around or at (x, y)."""
        turn, count = rng.uniform(0, 6.3), 28
        if rng.random() < 0.6:
            angles = [turn + 6.8 * step / count for step in range(count)]
            points = [
                (
                    x + math.cos(a) * size * rng.uniform(0.97, 1.05),
                    y + math.sin(a) * size * 0.6 * rng.uniform(0.97, 1.05),
                )
                for a in angles
            ]
        else:
            points = [(x, y), (x + size * 0.3, y + size * 0.4), (x + size, y - size * rng.uniform(0.4, 0.8))]
        self.curve(points, ink, rng.choice((1, 1.5)))


def crumple(image: Image.Image, rng: Random) -> Image.Image:
    """The sheet bent in a gentle wave, so that its lines are not quite straight."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    rise = rng.uniform(0.3, 1.2) * SCALE * np.sin(np.arange(width) / width * rng.uniform(1, 5) + rng.uniform(0, 6.3))
    rows = np.clip(np.arange(height)[:, None] + np.round(rise).astype(np.int64)[None, :], 0, height - 1)
    return Image.fromarray(pixels[rows, np.arange(width)[None, :]])


def lay(image: Image.Image, rng: Random, most: float = 1.0, ground: Colour = 0) -> Image.Image:
    """The page at the size of the image: turned by up to 1.5 degrees, slanted, seen from aside; `most` scales it."""
    width, height = round(image.width / SCALE), round(image.height / SCALE)
    turn = slant = px = py = 0.0
    if rng.random() < 0.75:
        turn = rng.uniform(-1, 1) * min(0.026, 7 / max(width, height)) * most
        slant = -turn + rng.uniform(-1, 1) * min(0.01, 3 / height) * most
    if rng.random() < 0.3:
        px, py = rng.uniform(-0.1, 0.1) * most / width, rng.uniform(-0.1, 0.1) * most / height
    room = 1 + max(abs(turn) * width / height, abs(slant) * height / width)  # corners stay inside
    return projected(image, (width, height), turn, slant, px, py, ground, room)


def shade(pixels: Pixels, rng: Random) -> Pixels:
    """Light over float32[h, w] or [h, w, 3]: a slope, the shadow of an edge, folds; never below two thirds."""
    height, width = pixels.shape[:2]
    light = np.ones((height, width), np.float32)
    down, across = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    if rng.random() < 0.5:
        light *= 1 - rng.uniform(0, 0.18) * (across / width if rng.random() < 0.5 else 1 - across / width)
        light *= 1 - rng.uniform(0, 0.15) * (down / height if rng.random() < 0.5 else 1 - down / height)
    if rng.random() < 0.2:  # the shadow of a hand or of the sheet's edge
        slope, start = rng.uniform(-0.6, 0.6), rng.uniform(0, width)
        away = (across + slope * down - start) / rng.uniform(3, 30)
        light *= 1 - rng.uniform(0.05, 0.2) * (0.5 + 0.5 * np.tanh(away))
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):  # folds, light on one side and dark on the other
        place, soft, depth = rng.random(), rng.uniform(4, 30), rng.uniform(0.04, 0.16)
        away = down - place * height if rng.random() < 0.75 else across - place * width
        away = away + rng.uniform(-0.03, 0.03) * (across if away.shape[1] == 1 else down)
        light *= (
            1
            - depth * np.exp(-np.maximum(away, 0) / soft) * (away >= 0)
            + 0.4 * depth * np.exp(-np.maximum(-away, 0) / soft) * (away < 0)
        )
    light = np.maximum(light, np.float32(0.66))
    return pixels * (light if pixels.ndim == 2 else light[:, :, None])


def scan(page: Page, rng: Random, needles: bool = False) -> npt.NDArray[np.uint8]:
    """A scan of a page of ink, uint8[h, w]: worn, bent, laid down crooked, in some light, with marks at the edge.

    `needles` prints it with the dots of a needle printer.
    """
    if rng.random() < 0.2:  # a ring or a tick beside the print
        page.pen(rng, rng.choice((0.03, 0.97)) * page.width, rng.uniform(0.1, 0.9) * page.height, rng.uniform(8, 25))
    mask = wear(page.image, rng, 9.0, needles)
    if rng.random() < 0.25:
        mask = crumple(mask, rng)
    mask = soften(lay(mask, rng), rng, 8.0)
    return expose(mask, rng, colour=0.0, inverted=0.0, faint=0.22, light=shade)


def develop(page: Page, rng: Random) -> npt.NDArray[np.uint8]:
    """A photograph of a page in colour, uint8[h, w, 3]: in front of some ground, in some light, with some noise."""
    level = rng.randint(40, 220)
    image = lay(page.image, rng, 2.0, (level, level, max(0, level - 12)))
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.6)))
    pixels = shade(np.asarray(image, np.float32), rng)
    noise = rng.choice((0.0, rng.uniform(0.5, 3), rng.uniform(1, 6)))
    if noise:
        pixels = pixels + grain(rng, *pixels.shape[:2])[:, :, None] * np.float32(noise)
    return np.clip(pixels, 0, 255).astype(np.uint8)
