"""Files of every kind open as the same rows, and datasets are validated as training will read them."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from multimodal_ai.data.image_processor import ImageConfig, ImageProcessor
from multimodal_ai.data.messages import DataError, Sample
from multimodal_ai.data.rows import is_inline_image, load_rows
from multimodal_ai.data.text_files import iterate_texts, train_tokenizer
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.data.validation import validate_dataset

TOOL = {
    "name": "pay",
    "description": "Pay.",
    "parameters": {"type": "object", "properties": {"to": {"type": "string"}}},
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, "PNG")
    return buffer.getvalue()


def rows() -> list[dict[str, Any]]:
    """Rows that a typed table would damage: calls with different arguments, content as text and as parts."""
    seen = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Pay this"}]}
    first = {"role": "assistant", "tool_calls": [{"name": "pay", "arguments": {"to": "020"}}]}
    second = {"role": "assistant", "tool_calls": [{"name": "tip", "arguments": '{"much":{"cents":5}}'}]}
    tip = {"name": "tip", "parameters": {"type": "object", "properties": {"much": {"type": "object"}}}}
    return [
        {"messages": [seen, first], "tools": [TOOL], "images": ["images/red.png"], "task": "call"},
        {"messages": [{"role": "user", "content": "Tip 東京"}, second], "tools": [tip], "meta": {"n": 1}},
        {"text": "Once upon a time."},
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "red.png").write_bytes(png())
    return tmp_path


def write_lines(path: Path, lines: list[Any]) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    opened = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opened(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


def samples(path: Path | str) -> list[Sample]:
    return [Sample.from_row(row, f"row {number}") for number, row in enumerate(load_rows(path), 1)]


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_json_lines(folder: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(folder / f"train.jsonl{suffix}", [*rows(), ""])
    monkeypatch.chdir(folder.parent)
    found = samples(path.relative_to(folder.parent))
    assert len(found) == 3, "a blank line is no row"
    assert found[0].messages[1].tool_calls[0].arguments == {"to": "020"}
    assert found[1].messages[1].tool_calls[0].arguments == {"much": {"cents": 5}}
    assert found[1].messages[0].text == "Tip 東京"
    assert found[1].meta == {"n": 1}
    assert [sample.task for sample in found] == ["call", "chat", "text"]
    assert ImageProcessor()(found[0].images[0]).grid == (2, 2), "paths count from the file's folder"


def test_paths_inside_parts_count_from_the_file_too(folder: Path) -> None:
    part = {"type": "image", "image": "images/red.png"}
    line = {"messages": [{"role": "user", "content": [part]}, {"role": "assistant", "content": "Red."}]}
    assert samples(write_lines(folder / "a.jsonl", [line]))[0].images == (str(folder / "images/red.png"),)


def test_lines_that_cannot_be_read_keep_their_number(folder: Path) -> None:
    lines = [rows()[2], "{bad", "[1]", '{"messages":[],"messages":[]}', '{"text":"\\ud800"}', '{"a":1}', rows()[2]]
    opened = load_rows(write_lines(folder / "a.jsonl", lines))
    assert len(opened) == 7
    problems = {
        1: "not JSON",
        2: "expected a JSON object",
        3: "given twice",
        4: "surrogate",
        5: "no `messages`; the row has a",
    }
    for index, message in problems.items():
        with pytest.raises(DataError, match=f"row 9 of a: .*{message}"):
            Sample.from_row(opened[index], "row 9 of a")
    Sample.from_row(opened[6])


def test_a_changed_file_is_read_again(folder: Path) -> None:
    path = write_lines(folder / "a.jsonl", [{"text": "one"}])
    assert samples(path)[0].messages[0].text == "one"
    write_lines(path, [{"text": "two"}, {"text": "three"}])
    os.utime(path, (1, 1))
    assert [sample.messages[0].text for sample in samples(path)] == ["two", "three"]


def test_parquet_and_folders(folder: Path) -> None:
    expected = samples(write_lines(folder / "train.jsonl", rows()))
    for number in range(2):
        table = datasets.Dataset.from_list([sample.to_row() for sample in expected])
        table.to_parquet(folder / "shards" / f"train-{number:05d}.parquet")
    found = samples(folder / "shards")
    assert len(found) == 6
    for one, other in zip(found, expected * 2, strict=True):
        assert (one.messages, one.specs, one.task, one.meta) == (other.messages, other.specs, other.task, other.meta)
    assert found[3].images == (png(),)


def test_parquet_with_typed_columns_and_images_of_the_datasets_library(folder: Path) -> None:
    question = [{"type": "image", "text": None}, {"type": "text", "text": "?"}]
    answer = [{"type": "text", "text": "Red."}]
    line = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    table = datasets.Dataset.from_list([{**line, "images": [{"bytes": png(), "path": None}]}])
    table = table.cast_column("images", datasets.List(datasets.Image()))
    table.to_parquet(folder / "a.parquet")
    sample = samples(folder / "a.parquet")[0]
    assert sample.images == (png(),), "not decoded: limits are checked first"
    assert sample.messages[0].text == "?"


def test_web_dataset_tars(folder: Path) -> None:
    first, second, _ = rows()
    with tarfile.open(folder / "a.tar", "w") as archive:
        members = {
            "x/000.json": json.dumps({**first, "images": None}).encode(),
            "x/000.png": png("blue"),
            "x/001.json": json.dumps(second).encode(),
            "x/002.png": png(),
        }
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    opened = load_rows(folder / "a.tar")
    assert len(opened) == 3
    assert Sample.from_row(opened[0]).images == (png("blue"),)
    assert Sample.from_row(opened[1]).messages[0].text == "Tip 東京"
    with pytest.raises(DataError, match=r"no \.json beside the image"):
        Sample.from_row(opened[2])


def test_what_cannot_be_opened_says_why(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "bad.parquet").write_bytes(b"PAR1 no")
    (folder / "notes.txt").write_text("x")
    splits = folder / "splits"
    splits.mkdir()
    for name in ("train.jsonl", "test.jsonl"):
        write_lines(splits / name, rows())
    mixed = folder / "mixed"
    mixed.mkdir()
    write_lines(mixed / "a.jsonl", rows())
    (mixed / "b.parquet").write_bytes(b"")
    for path, message in (
        (folder / "gone.jsonl", "no such file or folder"),
        (folder / "empty", r"no \.parquet, \.jsonl or \.tar file in this folder"),
        (folder / "bad.parquet", r"bad\.parquet: cannot be read"),
        (folder / "notes.txt", r"expected a file ending in \.parquet, \.jsonl"),
        (splits, r"holds several splits \(test, train\), which must not be mixed; name one file"),
        (mixed, r"several kinds \(JSON Lines, parquet\)"),
    ):
        with pytest.raises(DataError, match=message):
            load_rows(path)
    assert len(load_rows(write_lines(folder / "none.jsonl", []))) == 0


def test_inline_images_are_told_from_paths() -> None:
    assert is_inline_image("data:image/png;base64,AAAA")
    assert is_inline_image("iVBORw0KGgo" + "A" * 60)
    assert is_inline_image("/9j/" + "4AAQ" * 20)
    assert not is_inline_image("/9j/photo.jpg")
    assert not is_inline_image("images/" + "very" * 30 + ".png")


def test_validation_lists_every_bad_row(folder: Path) -> None:
    (folder / "images" / "broken.png").write_bytes(png()[:40])
    first, second, text = rows()
    missing = {**first, "images": []}
    broken = {**first, "images": ["images/broken.png"]}
    schema = {**text, "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    schema["tools"] = [{"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "strin"}}}}]
    path = write_lines(folder / "train.jsonl", [first, second, text, missing, broken, "{", schema])
    seen: list[int] = []
    report = validate_dataset(path, advance=lambda: seen.append(1))
    assert not report.ok
    assert (report.rows, report.bad_rows, len(seen)) == (7, 4, 7)
    assert report.tasks == {"call": 1, "chat": 1, "text": 1}
    assert (report.images, report.calls, report.triggers) == (1, 2, {"call": 2})
    for error, pattern in zip(
        report.errors,
        [
            "row 4 of train.jsonl: 1 image part but 0 images; add the image or drop the part",
            "row 5 of train.jsonl: images[0]:",
            "row 6 of train.jsonl: not JSON",
            "row 7 of train.jsonl: function f: parameters",
        ],
        strict=True,
    ):
        assert error.startswith(pattern)
    assert any("7 rows, 4 of them bad" in line for line in report.lines())
    assert validate_dataset(path, listed=1).lines()[-1] == "… and 3 more bad rows"
    good = write_lines(folder / "good.jsonl", rows())
    assert validate_dataset(good).ok
    assert not validate_dataset(good, ImageProcessor(ImageConfig(max_pixels=10))).ok
    assert not validate_dataset(write_lines(folder / "none.jsonl", [])).ok


def test_texts_for_a_tokenizer(folder: Path) -> None:
    write_lines(folder / "train.jsonl", rows())
    write_lines(folder / "other.jsonl.xz", [{"query": "Who?", "deep": [{"answer": "Me."}], "n": 1}])
    (folder / "book.txt").write_text("Chapter one.\n\nIt was night.\n")
    datasets.Dataset.from_list([{"title": "T", "body": "B", "n": 2}]).to_parquet(folder / "table.parquet")
    texts = list(iterate_texts([folder]))
    for expected in (
        "Chapter one.\n\nIt was night.\n",
        "Who?",
        "Me.",
        "T",
        "B",
        "Once upon a time.",
        '{"name":"pay","arguments":{"to":"020"}}',
    ):
        assert expected in texts
    assert any('"properties":{"to"' in text for text in texts)
    tokenizer = train_tokenizer([folder / "book.txt", folder / "train.jsonl"], 300, folder / "out")
    assert Tokenizer.load(folder / "out").fingerprint == tokenizer.fingerprint
    with pytest.raises(DataError, match="no text in the given files"):
        (folder / "empty.txt").write_text("")
        train_tokenizer([folder / "empty.txt"], 300, folder / "out")
    with pytest.raises(DataError, match=r"red\.png: expected \.txt"):
        list(iterate_texts([folder / "images" / "red.png"]))
    with pytest.raises(DataError, match="no such file"):
        list(iterate_texts([folder / "gone.txt"]))
    with pytest.raises(DataError, match=r"no \.txt"):
        list(iterate_texts([folder / "images"]))
