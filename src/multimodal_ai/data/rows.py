"""Opens dataset files as random-access rows: JSON Lines, Parquet, WebDataset tars, or a folder of one kind.

Storage is the `datasets` library's memory-mapped Arrow cache. JSON Lines and tars are stored with their nested
parts as JSON text: a typed table would give every call the arguments of all others, set to null. Images are
never decoded here, and relative image paths count from the folder of the file that names them. A line that
cannot be read becomes a row that says so, so that whoever uses it can tell its number.
"""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow.parquet

from multimodal_ai.functions.canonical import canonical_json, parse_json

Row = dict[str, Any]

LAYOUT = 1  # part of the cache's key: raise it when the rows made below change
FEATURES = datasets.Features(
    {
        "messages": datasets.Value("string"),
        "tools": datasets.Value("string"),
        "images": datasets.List({"path": datasets.Value("string"), "bytes": datasets.Value("large_binary")}),
        "task": datasets.Value("string"),
        "meta": datasets.Value("string"),
        "error": datasets.Value("string"),
    }
)
LINES = (".jsonl", ".jsonl.gz", ".jsonl.xz")
KINDS = {"parquet": (".parquet",), "JSON Lines": LINES, "tar": (".tar",)}
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
_BASE64_IMAGE = re.compile(r"(/9j/|iVBORw0KGgo|UklGR|R0lGOD|Qk)[A-Za-z0-9+/\s]*=*\s*\Z")  # by magic bytes
SPLIT_NAMES = ("train", "training", "test", "validation", "valid", "val", "dev")


class DataError(ValueError):
    """A dataset or one of its rows cannot be used; the message says where, why, and how to mend it."""


def load_rows(path: str | Path) -> datasets.Dataset:
    """Opens `.parquet`, `.jsonl` (also `.gz`, `.xz`), `.tar`, a folder of one of these, or a URL of one.

    URLs (`hf://`, `s3://`, …) go to `datasets` and fsspec as they are. The result gives rows by number; feed them
    to `Sample.from_row`. Raises DataError for files that are missing, unreadable or of several splits.
    """
    url = str(path)
    if "://" in url:
        kind, files = _kind(url), [url]
        stamps: list[Any] = [] if kind == "parquet" else [_remote_stamp(url)]  # `datasets` looks itself
    else:
        kind, local = _local_files(Path(path))
        files = [str(file.resolve()) for file in local]
        stamps = [(file.stat().st_mtime_ns, file.stat().st_size) for file in local]
    try:
        with _quiet():
            if kind == "parquet":
                return _open_parquet(files)
            arguments: dict[str, Any] = {"files": tuple(files), "stamps": tuple(stamps), "layout": LAYOUT}
            if next(_read_files(**arguments), None) is None:
                return datasets.Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES)
            return datasets.Dataset.from_generator(_read_files, features=FEATURES, gen_kwargs=arguments)
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        if isinstance(error, DataError):
            raise
        cause: object = error.__cause__ or error
        where, cause = (_damaged_shard(files) if kind == "parquet" and "://" not in url else None) or (path, cause)
        raise DataError(f"{where}: cannot be read: {cause}; is it a whole {kind} file?") from error


def _remote_stamp(url: str) -> str:
    """Changes when the file behind a URL does. Raises DataError if there is none."""
    try:
        filesystem, path = fsspec.url_to_fs(url)
        return str(filesystem.ukey(path))
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{url}: cannot be read: {error}; check the address, and that fsspec knows its kind") from error


def _kind(name: str) -> str:
    for kind, suffixes in KINDS.items():
        if name.lower().endswith(suffixes):
            return kind
    known = ", ".join(suffix for suffixes in KINDS.values() for suffix in suffixes)
    raise DataError(f"{name}: expected a file ending in {known}, or a folder of such files")


def _local_files(path: Path) -> tuple[str, list[Path]]:
    if path.is_file():
        return _kind(path.name), [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; check the path")
    found: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        with contextlib.suppress(DataError):
            if file.is_file() and not file.name.startswith("."):
                found.setdefault(_kind(file.name), []).append(file)
    if not found:
        raise DataError(f"{path}: no .parquet, .jsonl or .tar file in this folder; name the file itself")
    if len(found) > 1:
        raise DataError(f"{path}: holds files of several kinds ({', '.join(found)}); name one file, or separate them")
    kind, files = found.popitem()
    splits = {split for file in files for split in SPLIT_NAMES if file.name.split(".")[0].split("-")[0] == split}
    if len(splits) > 1:
        raise DataError(
            f"{path}: holds several splits ({', '.join(sorted(splits))}), which must not be mixed; "
            f"name one file, for example {files[0]}"
        )
    return kind, files


def _open_parquet(files: list[str]) -> datasets.Dataset:
    """As `datasets` reads it, but images stay encoded: they are decoded later, within limits."""
    features = None
    if "://" not in files[0]:
        schema = pyarrow.parquet.read_schema(files[0])
        features = datasets.Features.from_arrow_schema(schema)
        features = datasets.Features({name: _undecoded(feature) for name, feature in features.items()})
    rows = datasets.Dataset.from_parquet(files, features=features)
    if features is None and any(_undecoded(rows.features[name]) != rows.features[name] for name in rows.features):
        rows = rows.cast(datasets.Features({name: _undecoded(feature) for name, feature in rows.features.items()}))
    return rows


def _damaged_shard(files: Sequence[str]) -> tuple[str, object] | None:
    """The first file that cannot be read to its end, and why; for an error, so it may take its time."""
    for name in files:
        try:
            with pyarrow.parquet.ParquetFile(name) as file:
                for _ in file.iter_batches():
                    pass
        except (OSError, ValueError) as error:  # pyarrow's own are subclasses of these
            return name, error
    return None


def _undecoded(feature: Any) -> Any:
    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, datasets.List):
        return datasets.List(_undecoded(feature.feature), length=feature.length)
    if isinstance(feature, Mapping):
        return {name: _undecoded(inner) for name, inner in feature.items()}
    return feature


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own progress bars."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _read_files(files: Sequence[str], stamps: Sequence[Any], layout: int) -> Iterator[Row]:
    """All rows of the files in order. `stamps` and `layout` only tell the cache when to read again."""
    for name in files:
        folder = None if "://" in name else Path(name).parent
        if name.lower().endswith(".tar"):
            with fsspec.open(name, "rb") as file:
                for raw, images in _read_tar(file):
                    yield _plain_row(raw, images, folder)
        else:
            for line in read_lines(name):
                if line.strip():
                    yield _plain_row(line, [], folder)


def read_lines(name: str | Path) -> Iterator[str]:
    """Lines of a UTF-8 text file, plain, `.gz` or `.xz`, local or at a URL; bad bytes become U+FFFD."""
    with fsspec.open(str(name), "rb", compression="infer") as stream:
        for line in stream:
            yield line.decode("utf-8", errors="replace")


def _read_tar(file: Any) -> Iterator[tuple[str, list[Row]]]:
    """Samples of a WebDataset tar: members that share a name up to its first dot, with one `.json` among them."""

    def finished() -> tuple[str, list[Row]]:
        text = members.pop("json", b"").decode("utf-8", errors="replace")
        return text, [{"path": None, "bytes": data} for _, data in sorted(members.items())]

    members: dict[str, bytes] = {}
    current = None
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            if not member.isfile() or not stem:
                continue
            if (folder, stem) != current:
                if members:
                    yield finished()
                members, current = {}, (folder, stem)
            suffix = suffix.lower()
            if suffix == "json" or suffix.rsplit(".", 1)[-1] in IMAGE_SUFFIXES:
                stream = archive.extractfile(member)
                members[suffix] = stream.read() if stream else b""
        if members:
            yield finished()


def _plain_row(text: str, images: Iterable[Row], folder: Path | None) -> Row:
    """One line of JSON with its nested parts as text, in the columns of FEATURES."""
    row: Row = dict.fromkeys(FEATURES)
    row["images"] = list(images)
    try:
        value = parse_json(text) if text else None
        if not isinstance(value, dict):
            raise ValueError("expected a JSON object with `messages`" if text else "no .json beside the image")
        if "text" in value and "messages" not in value:  # plain text for pretraining
            value = {**value, "messages": [{"role": "assistant", "content": value["text"]}]}
            value.setdefault("task", "text")
        if "messages" not in value:
            raise ValueError(f"no `messages`; the row has {', '.join(map(str, value)) or 'nothing'}")
        given = value.get("images", value.get("image")) or []
        row["images"] += [_reference(image, folder) for image in (given if isinstance(given, list) else [given])]
        if folder is not None:
            _resolve_parts(value["messages"], folder)
        for name in ("messages", "tools", "meta"):
            inner = value.get(name)
            row[name] = inner if inner is None or isinstance(inner, str) else canonical_json(inner)
        row["task"] = None if value.get("task") is None else str(value["task"])
    except ValueError as error:
        row["error"] = f"{error}; correct the line"
    return row


def _reference(image: Any, folder: Path | None) -> Row:
    if isinstance(image, Mapping):
        image = image.get("path")
    if not isinstance(image, str) or not image:
        raise ValueError("images: expected a list of paths")
    return {"path": _resolved(image, folder), "bytes": None}


def _resolved(path: str, folder: Path | None) -> str:
    return path if folder is None or "://" in path or is_inline_image(path) else str(folder / path)


def is_inline_image(text: str) -> bool:
    """Whether a string holds an image itself, as a `data:` URL or as bare Base64, and is no path."""
    return text.startswith("data:") or (len(text) >= 48 and _BASE64_IMAGE.match(text) is not None)


def _resolve_parts(messages: Any, folder: Path) -> None:
    """Makes the paths inside image parts independent of the current folder."""
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else []:
            if isinstance(part, dict) and isinstance(part.get("image"), str):
                part["image"] = _resolved(part["image"], folder)
