"""Memory and time that a hundred million samples cost before the first of them is read.

    python benchmarks/index.py [--rows 150000000] [--processes 2] [--json OUT]

Writes a table of 150 million rows that have a task and nothing else (1.2 GB in a temporary folder), as the cache of
`datasets` keeps it, and opens it as a source of which two thirds are used; then draws positions of the mix. It measures
what the training code holds: memory of its own (RssAnon), the file of the index, and, in a second process, how long the
index takes once it is built. 40 s on one core.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from multimodal_ai.data.ordering import Mix
from multimodal_ai.data.row_index import rows_of_tasks

TASKS = ("chat", "vqa", "call")
BATCH = 1000  # rows that `datasets` writes at once
LIMIT = 2e9  # bytes


def write_table(path: Path, count: int) -> None:
    schema = pa.schema([("task", pa.string())])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for first in range(0, count, BATCH):
            kinds = pa.array(np.arange(first, min(first + BATCH, count)) % 3, pa.int32())
            tasks = pa.DictionaryArray.from_arrays(kinds, pa.array(TASKS)).cast(pa.string())
            writer.write_batch(pa.record_batch([tasks], schema=schema))


def own_memory() -> int:
    """Bytes that belong to this process alone; pages of mapped files are not among them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def open_source(path: str, draws: int, results: Any) -> None:
    """Open the source as training does, and find the rows of the first positions; in a process of its own."""
    before, began = own_memory(), time.perf_counter()
    rows = datasets.Dataset.from_file(path)
    index = rows_of_tasks(rows, ["vqa", "call"], path)
    opened = time.perf_counter() - began
    mix = Mix([len(index)], [1.0], seed=0)
    began = time.perf_counter()
    found = [int(index[mix[position][2]]) for position in range(draws)]
    drawn = time.perf_counter() - began
    assert len(set(found)) == draws and all(row % 3 for row in found)
    file = next(Path(path).parent.glob("rows_of_tasks_*.npy")).stat().st_size
    results.put({"samples": len(index), "memory": own_memory() - before, "index_file": file, "open_s": opened,
                 "position_us": drawn / draws * 1e6})  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=150_000_000, help="two thirds of them are samples")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--draws", type=int, default=50_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.arrow"
        write_table(path, arguments.rows)
        context = multiprocessing.get_context("spawn")
        for number in range(arguments.processes):
            queue = context.Queue()
            process = context.Process(target=open_source, args=(str(path), arguments.draws, queue))
            process.start()
            result = queue.get()
            process.join()
            found.append(result)
            whole = result["memory"] + result["index_file"]
            print(f"process {number + 1}: {result['samples']:,} samples, opened in {result['open_s']:.2f} s, own "
                  f"memory {result['memory'] / 1e6:.0f} MB, index {result['index_file'] / 1e6:.0f} MB on disk, shared, "
                  f"{result['position_us']:.0f} µs a position; at most "
                  f"{LIMIT / 1e9:g} GB: {'yes' if whole <= LIMIT else 'NO'}")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
