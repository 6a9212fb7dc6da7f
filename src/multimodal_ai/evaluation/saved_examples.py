"""What a model answered while it was trained, kept in the run's folder for its report.

    examples/step_00001000.json      one evaluation: by source, what was asked, expected and given
    examples/images/<hash>.webp      each image once, however often it was asked about

Files only; whoever writes them decides what is worth keeping.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from multimodal_ai.evaluation.common import Example
from multimodal_ai.evaluation.report_views import shown_image

FOLDER = "examples"


def write_examples(run_folder: Path, step: int, examples: Mapping[str, Sequence[Example]]) -> Path:
    """Keep the examples of an evaluation after `step` steps, by source; the file is renamed into place.

    Raises:
        OSError: they could not be written.
    """
    folder = run_folder / FOLDER
    (folder / "images").mkdir(parents=True, exist_ok=True)
    kept = {
        name: [asdict(replace(example, images=[_keep(image, folder) for image in example.images])) for example in found]
        for name, found in examples.items()
    }
    path = folder / f"step_{step:08d}.json"
    _write(path, json.dumps(kept, ensure_ascii=False).encode())
    return path


def read_examples(run_folder: Path) -> tuple[int, dict[str, list[Example]]] | None:
    """Step and examples of the newest evaluation that can be read; images are paths. None where there is none."""
    folder = run_folder / FOLDER
    for path in sorted(folder.glob("step_*.json"), reverse=True):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return int(path.stem.removeprefix("step_")), {
                name: [_with_paths(Example(**values), folder) for values in rows] for name, rows in found.items()
            }
        except (OSError, ValueError, TypeError, AttributeError):
            continue
    return None


def _keep(image: Any, folder: Path) -> str | None:
    found = shown_image(image)
    if found is None:
        return None
    content, kind = found
    path = folder / "images" / f"{hashlib.sha256(content).hexdigest()[:16]}.{kind}"
    if not path.exists():
        _write(path, content)
    return f"images/{path.name}"


def _with_paths(example: Example, folder: Path) -> Example:
    return replace(example, images=[folder / image for image in example.images if image])


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
