"""Text out of files, for training a tokenizer: plain text, JSON Lines, Parquet, also compressed.

Rows of the message schema give their text, their calls and their functions as JSON, the way the model meets
them, so that the tokenizer learns the shapes of calls too. Texts come in blocks, never a whole file at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet

from multimodal_ai.data.messages import Sample
from multimodal_ai.data.rows import LINES, DataError, load_rows, read_lines
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions.canonical import canonical_json
from multimodal_ai.utils.logger import get_logger

PLAIN = (".txt", ".md", ".txt.xz", ".txt.gz", ".md.xz", ".md.gz")
BLOCK = 1 << 16  # characters of a text file that are learned from at once

logger = get_logger(__name__)


def train_tokenizer(
    inputs: Iterable[str | Path], vocab_size: int, out: str | Path, max_characters: int | None = None
) -> Tokenizer:
    """Trains a tokenizer on files and folders, saves it as `out/tokenizer.json` and returns it.

    `max_characters` stops reading early; inputs are read in the order given. Raises DataError for files without
    text or of an unknown kind, ValueError for a `vocab_size` that is too small.
    """
    tokenizer = Tokenizer.train(_not_empty(_limited(iterate_texts(inputs), max_characters)), vocab_size)
    if tokenizer.vocab_size < vocab_size:
        logger.warning(
            "the text has pairs for %s ids only, not %s; give more text for a larger vocabulary",
            f"{tokenizer.vocab_size:,}",
            f"{vocab_size:,}",
        )
    tokenizer.save(out)
    return tokenizer


def iterate_texts(inputs: Iterable[str | Path]) -> Iterator[str]:
    """Texts of files (`.txt`, `.md`, `.jsonl`, `.parquet`, each text kind also `.xz` or `.gz`) and of folders."""
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.is_file() and _is_known(file)]
            if not files:
                raise DataError(f"{path}: no .txt, .md, .jsonl or .parquet file in this folder")
        elif path.is_file():
            files = [path]
        else:
            raise DataError(f"{path}: no such file or folder; check the path")
        for file in files:
            yield from _texts_of_file(file)


def texts_of_sample(sample: Sample) -> Iterator[str]:
    """Everything in a sample that will be tokenised: text, calls and functions as JSON."""
    for message in sample.messages:
        if message.text:
            yield message.text
        for call in message.tool_calls:
            yield canonical_json({"name": call.name, "arguments": call.arguments})
    for spec in sample.specs:
        yield f"{spec.name} {spec.description}"
        yield canonical_json(spec.parameters)


def _is_known(path: Path) -> bool:
    return path.name.lower().endswith((*PLAIN, *LINES, ".parquet"))


def _texts_of_file(path: Path) -> Iterator[str]:
    name = path.name.lower()
    if not _is_known(path):
        raise DataError(f"{path}: expected .txt, .md, .jsonl (also .xz or .gz) or .parquet")
    if name.endswith(PLAIN):
        block: list[str] = []
        size = 0
        for line in read_lines(path):
            block.append(line)
            size += len(line)
            if size >= BLOCK:
                yield "".join(block)
                block, size = [], 0
        yield "".join(block)
    elif name.endswith(".parquet") and "messages" not in pyarrow.parquet.read_schema(path).names:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                yield from _strings(row)
    elif name.endswith(".parquet"):
        for index, row in enumerate(load_rows(path)):
            yield from texts_of_sample(Sample.from_row(row, f"row {index + 1:,} of {path.name}"))
    else:
        yield from _texts_of_lines(path)


def _texts_of_lines(path: Path) -> Iterator[str]:
    """Rows of the message schema as above; of any other JSON object its strings."""
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"line {number:,} of {path.name}: not JSON ({error}); correct the line") from None
        if isinstance(row, Mapping) and "messages" in row:
            yield from texts_of_sample(Sample.from_row(row, f"line {number:,} of {path.name}"))
        else:
            yield from _strings(row)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _limited(texts: Iterator[str], max_characters: int | None) -> Iterator[str]:
    left = max_characters
    for text in texts:
        if left is not None:
            text = text[:left]
            left -= len(text)
        if text:
            yield text
        if left == 0:
            return


def _not_empty(texts: Iterator[str]) -> Iterator[str]:
    found = False
    for text in texts:
        found = True
        yield text
    if not found:
        raise DataError("no text in the given files; a tokenizer needs some to learn from")
