"""What the README shows works: the Python lines, the files it names, its commands' options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from multimodal_ai.data.messages import Sample
from multimodal_ai.functions import load_functions
from multimodal_ai.inference import Engine, Reply

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_lines_run(
    engine: Engine, samples: dict[str, list[Sample]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "quickstart"
    engine.model.save_pretrained(folder)
    engine.tokenizer.save(folder)
    engine.processing.save(folder)
    (folder / "meter.png").write_bytes(samples["digits"][0].images[0])
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    tool = load_functions(ROOT / "examples" / "functions.py").specs[0].to_tool()
    names: dict[str, Any] = {"log_reading": tool}
    exec(code, names)
    assert isinstance(names["reply"], Reply) and names["reply"].usage["completion_tokens"] > 0


def test_the_files_it_names_are_there() -> None:
    linked = re.findall(r"\]\(((?:docs|configs|examples)/[^)#]+)\)", README)
    named = re.findall(r"`((?:configs|examples|scripts)/[\w./]+\.(?:yaml|py))`", README)
    assert len(linked) > 5
    for path in [*linked, *named]:
        assert (ROOT / path).exists(), path
    table = README.split("| step | files | what |")[1].split("```")[0]
    folders = {"models", "data", "training", "inference", "functions", "serving", "evaluation"}
    for row in re.findall(r"^\| \d+ \| (.+?) \|", table, re.M):
        folder = ""
        for name in re.findall(r"`([\w./]+)`", row):
            path = name if name.split("/")[0] in folders else f"{folder}/{name}"
            if name in ("cli.py", "terminal.py", "quickstart.py"):
                path = name
            folder = path.split("/")[0]
            assert (ROOT / "src" / "multimodal_ai" / path).exists(), path
