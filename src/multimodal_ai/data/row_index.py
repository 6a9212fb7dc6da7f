"""Which rows of a source are used, where its tasks leave some out: an array on disk, mapped into memory.

It is built once, beside the rows' own cache, and every process maps the same file: a hundred million rows take 400 MB
of disk and of the page cache that all processes share, and next to nothing of their own memory. The order of samples
needs no index (`ordering`). Nothing here reads anything but the column of tasks.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute
from filelock import FileLock

from multimodal_ai.data.rows import DataError

EMPTY = 128  # bytes of a .npy file without entries


def rows_of_tasks(rows: datasets.Dataset, tasks: Sequence[str], where: str) -> np.ndarray:
    """The numbers of the rows of these tasks, in order: uint32 or uint64, read-only.

    where: the source in words. Raises DataError if the rows have no task.
    """
    if "task" not in rows.column_names:
        raise DataError(
            f"{where}: its rows have no column `task`, so none of {', '.join(tasks)} can be found; drop tasks"
        )
    dtype = np.uint32 if len(rows) < 2**32 else np.uint64
    found = _found(rows.data.column("task").chunks, tasks, dtype)
    if not rows.cache_files:  # a table that lies in main memory; such are small
        return np.concatenate([np.empty(0, dtype), *found])
    key = hashlib.blake2b("\0".join([rows._fingerprint, *tasks]).encode(), digest_size=12).hexdigest()
    path = Path(rows.cache_files[0]["filename"]).parent / f"rows_of_tasks_{key}.npy"
    with FileLock(f"{path}.lock"):  # the processes of a run come here at the same time
        if not path.exists():
            _write(path, found, dtype)
    empty = path.stat().st_size <= EMPTY  # what holds nothing cannot be mapped
    found_rows: np.ndarray = np.load(path, mmap_mode=None if empty else "r")
    return found_rows


def _found(chunks: Iterable[pa.Array], tasks: Sequence[str], dtype: type) -> Iterator[np.ndarray]:
    """Row numbers chunk by chunk, so that the column is never in memory as a whole."""
    first, wanted = 0, pa.array(tasks, pa.string())
    for chunk in chunks:
        mask = pa.compute.is_in(chunk.cast(pa.string()), value_set=wanted).to_numpy(zero_copy_only=False)
        yield (np.flatnonzero(mask) + first).astype(dtype)
        first += len(chunk)


def _write(path: Path, parts: Iterable[np.ndarray], dtype: type) -> None:
    """A .npy file of all parts, under its name only when it is whole."""
    aside = path.with_suffix(f".{os.getpid()}.partial")
    try:
        with open(aside, "wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (2**62,)}
            np.lib.format.write_array_header_1_0(file, header)  # room for any length; the real one is written below
            begin, count = file.tell(), 0
            for part in parts:
                part.tofile(file)
                count += len(part)
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, {**header, "shape": (count,)})
            assert file.tell() == begin, "NumPy leaves room in the header for a length of any size"
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
