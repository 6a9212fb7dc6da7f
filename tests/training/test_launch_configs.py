"""The files that a launch needs: Accelerate reads each of them, and what docs/scaling.md names is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
PROCESSES = {"one_gpu": 1, "cpu_2": 2, "ddp_8": 8, "fsdp2_8": 8, "hsdp_nodes": 16}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_it(path: Path):
    config = load_config_from_file(str(path))  # refuses unknown keys
    assert config.num_processes == PROCESSES[path.stem]
    assert config.num_processes % config.num_machines == 0
    # `strategy` in the stage's YAML shards; Accelerate's own plugin would wrap the model a second time
    assert config.distributed_type in ("NO", "MULTI_GPU")


def test_every_file_that_the_pages_name_is_there():
    pages = [ROOT / "docs" / "scaling.md", *CONFIGS, ROOT / "scripts" / "train.slurm"]
    named = {name for page in pages for name in re.findall(r"\b(?:configs|scripts|docs)/[\w./]+\w", page.read_text())}
    missing = sorted(name for name in named if not name.endswith("...yaml") and not (ROOT / name).exists())
    assert not missing and "configs/accelerate/hsdp_nodes.yaml" in named
    text = pages[0].read_text()
    assert all(f"configs/accelerate/{path.name}" in text for path in CONFIGS)


def test_the_slurm_script_is_a_shell_script():
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / "train.slurm")], check=True)
