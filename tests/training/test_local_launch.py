"""Several processes on one machine: they train as one, and none of them is ever left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import toy

from multimodal_ai.training.local_launch import train_locally
from multimodal_ai.training.run import run_training

ENDLESS = ["schedule.steps=1000000", "checkpoint.keep=1"]
LAUNCH = (
    "import sys; from pathlib import Path; from multimodal_ai.training.local_launch import train_locally; "
    "sys.exit(train_locally(Path(sys.argv[1]), sys.argv[3:], 2, Path(sys.argv[2])).exit_code)"
)


def test_two_processes_train_as_one(stage: Path, tmp_path: Path):
    launched = train_locally(stage / "stage.yaml", [f"output_dir={tmp_path / 'two'}"], 2, tmp_path / "others.log")
    assert launched.exit_code == 0
    assert 0.2 < launched.peak_memory_gb < 4
    assert run_training(stage / "stage.yaml", [f"output_dir={tmp_path / 'one'}"]).exit_code == 0
    assert toy.read_losses(tmp_path / "two") == pytest.approx(toy.read_losses(tmp_path / "one"), rel=2e-3)


def test_what_stops_a_stage_is_its_exit_code(stage: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    overrides = [f"output_dir={tmp_path}", "batch.global_size=5"]
    assert train_locally(stage / "stage.yaml", overrides, 2, tmp_path / "others.log").exit_code == 2
    assert "batch.global_size" in capfd.readouterr().err
    assert "batch.global_size" in (tmp_path / "others.log").read_text()


@pytest.mark.parametrize("who, how, code", [("launcher", "SIGTERM", 143), ("rank", "SIGKILL", None)])
def test_no_process_is_left_behind(stage: Path, tmp_path: Path, who: str, how: str, code: int | None):
    arguments = [str(stage / "stage.yaml"), str(tmp_path / "others.log"), f"output_dir={tmp_path / 'run'}", *ENDLESS]
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCH, *arguments])
    log = tmp_path / "run" / "metrics.jsonl"
    _until(lambda: log.exists() and log.stat().st_size > 0, 120)
    ranks = psutil.Process(launcher.pid).children()
    assert len(ranks) == 2
    (launcher if who == "launcher" else ranks[1]).send_signal(getattr(signal, how))
    ended = launcher.wait(timeout=90)
    assert ended == code if code else ended != 0
    _until(lambda: not any(map(_runs, ranks)), 10)
    assert list((tmp_path / "run" / "checkpoints").glob("step_*")) or who == "rank"


def test_ranks_end_with_a_launcher_that_was_killed(stage: Path, tmp_path: Path):
    if sys.platform != "linux":
        pytest.skip("only Linux tells a process that its parent is gone")
    arguments = [str(stage / "stage.yaml"), str(tmp_path / "others.log"), f"output_dir={tmp_path / 'run'}", *ENDLESS]
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCH, *arguments])
    log = tmp_path / "run" / "metrics.jsonl"
    _until(lambda: log.exists() and log.stat().st_size > 0, 120)
    ranks = psutil.Process(launcher.pid).children()
    launcher.kill()
    launcher.wait()
    _until(lambda: not any(map(_runs, ranks)), 60)
    assert list((tmp_path / "run" / "checkpoints").glob("step_*"))


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _until(condition: object, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.1)
