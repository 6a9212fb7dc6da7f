"""Preprocessing on one thread: JPEGs to model input and text to ids, against Pillow, `transformers` and `tokenizers`.

    pip install -e ".[bench,fast]"
    OMP_NUM_THREADS=1 python benchmarks/preprocessing.py [--from ../shared/data] [--json OUT]

Takes about a minute. Images: two photographs of scikit-learn at 640 x 480, as JPEGs of quality 75 and 90, to the
patches that the model reads; peers resize to the same pixels, `transformers` also normalises (ours does so in the
model). Text: 20 MB of books in blocks of 64 Ki characters; `tokenizers` runs on the first 2 MB. Sides take turns, a
row compares medians; seconds are the thread's own, so that a busy neighbour counts little. Also measured: what decoding
a JPEG at a part of its size costs, in dB against the pixels that were compressed.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images

from multimodal_ai.data.image_files import decode_image
from multimodal_ai.data.image_processor import ImageConfig, ImageProcessor, resize
from multimodal_ai.data.tokenizer import FastTokenizer, Tokenizer

SIZE = (640, 480)
CONFIGS = {
    "32 patches": ImageConfig(patch_size=16, max_patches=32, merge=1),  # the quickstart's
    "256 patches": ImageConfig(patch_size=16, max_patches=256, merge=2),
}
CORPUS, SLICE, BLOCK = 20_000_000, 2_000_000, 65_536  # characters
VOCABULARY = 12_288  # that of configs/models/small.yaml
BICUBIC = Image.Resampling.BICUBIC


def compare(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median units/s of each side; a side does its work and returns how many units it did. Sides take turns."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):  # the first round warms up
        for name, side in sides.items():
            began = time.thread_time()
            done = side()
            if number:
                rates[name].append(done / (time.thread_time() - began))
    return {name: statistics.median(found) for name, found in rates.items()}


def photographs(quality: int) -> list[bytes]:
    return [jpeg(Image.fromarray(pixels).resize(SIZE, BICUBIC), quality) for pixels in load_sample_images().images]


def jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def rows_of(measure: str, unit: str, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """One row a peer."""
    return [row_of(measure, unit, name, rates["ours"], rate) for name, rate in rates.items() if name != "ours"]


def row_of(measure: str, unit: str, peer_name: str, ours: float, peer: float) -> dict[str, Any]:
    return {"measure": measure, "unit": unit, "peer_name": peer_name, "ours": ours, "peer": peer, "ratio": ours / peer}


def images(rounds: int) -> list[dict[str, Any]]:
    from transformers import SiglipImageProcessorPil

    rows: list[dict[str, Any]] = []
    for name, config in CONFIGS.items():
        processor = ImageProcessor(config)
        grid = processor.grid_for(SIZE[1], SIZE[0])
        height, width = (side * config.patch_size for side in grid)
        peer = SiglipImageProcessorPil(size={"height": height, "width": width}, resample=BICUBIC)

        def pillow(data: bytes, size: tuple[int, int] = (width, height)) -> object:
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize(size, BICUBIC))

        def of_transformers(data: bytes, peer: Any = peer) -> object:
            return peer(Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"]

        for quality in (75, 90):
            files = photographs(quality)

            def side(work: Callable[[bytes], object], files: Sequence[bytes] = files) -> Callable[[], float]:
                return lambda: len([work(data) for data in files * 6])

            works = {"ours": processor, "Pillow": pillow, "transformers": of_transformers}
            kilobytes = sum(map(len, files)) / len(files) / 1000
            measure = f"JPEG of quality {quality} ({kilobytes:.0f} kB) to {name} ({width} x {height})"
            rows += rows_of(measure, "images/s", compare({key: side(work) for key, work in works.items()}, rounds))
        parts = parts_of(processor, photographs(75))
        print(f"{name}: " + ", ".join(f"{part} {1e6 / rate:.0f} µs" for part, rate in compare(parts, rounds).items()))
    return rows


def parts_of(processor: ImageProcessor, files: Sequence[bytes]) -> dict[str, Callable[[], float]]:
    """Where an image's time goes."""
    decoded = [decode_image(data, processor.limits, target=processor._size_for) for data in files]
    height, width = processor._size_for(SIZE[1], SIZE[0])
    small = [resize(image, height, width) for image in decoded]
    return {
        "decoding": lambda: len(
            [decode_image(data, processor.limits, target=processor._size_for) for data in files * 6]
        ),
        "resizing": lambda: len([resize(image, height, width) for image in decoded * 6]),
        "cutting into patches": lambda: len([processor(image) for image in small * 6]),
    }


def fidelity() -> list[dict[str, Any]]:
    """What is lost, in dB (PSNR), where a JPEG is decoded whole and at its half, for results of several sizes."""
    page = Image.new("RGB", SIZE, "white")
    font, draw = ImageFont.load_default(16), ImageDraw.Draw(page)
    for y in range(0, SIZE[1], 20):
        draw.text((5, y), f"{y} Total 1,347.50 EUR, receipt no. 8812, 25-11-2026, the quick brown fox", "black", font)
    photo = Image.fromarray(load_sample_images().images[0]).resize(SIZE, BICUBIC)
    rows = []
    for kind, image in (("photograph", photo), ("small print", page)):
        for share in (0.25, 0.45):  # as small as it must be for the half to be decoded; and half decoded all the same
            size = int(SIZE[1] * share), int(SIZE[0] * share)
            exact = resize(torch.from_numpy(np.array(image)).permute(2, 0, 1), *size)
            found = []
            for height, width in ((SIZE[1] // 2, SIZE[0] // 2), (0, 0)):
                pixels = simplejpeg.decode_jpeg(jpeg(image, 90), "RGB", min_height=height, min_width=width)
                error = resize(torch.from_numpy(pixels).permute(2, 0, 1), *size).double() - exact.double()
                found.append(10 * np.log10(255**2 / error.square().mean().item()))
            rows.append(row_of(f"{kind}, result {share:.0%} of the size, half decoded", "dB", "whole decoded", *found))
    return rows


def text(folder: Path, rounds: int) -> list[dict[str, Any]]:
    with lzma.open(folder / "books.txt.xz", "rt", encoding="utf-8") as file:
        corpus = file.read(CORPUS)
    blocks = [corpus[start : start + BLOCK] for start in range(0, len(corpus), BLOCK)]
    few = blocks[: SLICE // BLOCK]
    lines = [line for line in few[0].splitlines() if line]
    tokenizer = Tokenizer.train(blocks[-SLICE // BLOCK :], VOCABULARY)
    plain = tokenizer._backend
    for block in few:
        assert tokenizer.encode(block) == plain.encode(block, add_special_tokens=False).ids
    print(f"{CORPUS:,} characters, {tokenizer.vocab_size:,} ids, {'with' if FastTokenizer else 'without'} fastokens")

    def ours(texts: Sequence[str], encode: Callable[[str], object]) -> Callable[[], float]:
        size = sum(len(text.encode()) for text in texts) / 1e6
        return lambda: size * bool([encode(text) for text in texts])

    def peer(texts: Sequence[str]) -> Callable[[], float]:
        return ours(texts, lambda text: plain.encode(text, add_special_tokens=False).ids)

    rows = []
    for measure, texts, encode, given in (
        ("20 MB of books to arrays of ids", blocks, tokenizer.encode_array, few),
        ("20 MB of books to lists of ids", blocks, tokenizer.encode, few),
        ("lines of a book to lists of ids", lines, tokenizer.encode, lines),
    ):
        rates = compare({"ours": ours(texts, encode), "tokenizers": peer(given)}, rounds)
        rows += rows_of(measure, "MB/s", rates)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, default=Path("../shared/data"), help="has books.txt.xz")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    libraries = ["torch", "pillow", "transformers", "tokenizers", "simplejpeg"] + ["fastokens"] * bool(FastTokenizer)
    about = {"device": platform.processor() or "CPU", **{name: version(name) for name in libraries}}
    print(json.dumps(about))
    rows = images(arguments.rounds) + fidelity() + text(arguments.source, arguments.rounds)
    for row in rows:
        print(f"{row['measure']:62} ours {row['ours']:6.1f}  {row['peer_name']:13} {row['peer']:6.1f} {row['unit']:9}"
              f"ratio {row['ratio']:6.2f}")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps([{**about, **row} for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
