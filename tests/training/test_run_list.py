"""Listing runs: every state from what the files say, whatever the files look like."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from multimodal_ai.training import run_record
from multimodal_ai.training.run_list import ago, find_runs, read_json_lines_backwards, summarise
from multimodal_ai.training.run_record import RunKeeper, RunRecord, new_record, read_record, state_of


def write_run(folder: Path, lines: str = "", **record: Any) -> Path:
    folder.mkdir(parents=True)
    if record:
        found = RunRecord("alignment", command=["multimodal-ai", "train", "-c", "a b.yaml"], folder="/somewhere")
        (folder / "run.json").write_text(json.dumps({**asdict(found), "from a later version": 1, **record}))
    if lines:
        (folder / "metrics.jsonl").write_text(lines)
    return folder


def own() -> dict[str, Any]:
    process = psutil.Process()
    return {"pid": process.pid, "process_started": process.create_time(), "host": socket.gethostname()}


@pytest.mark.parametrize(
    "record, state",
    [
        (own(), "running"),
        ({**own(), "process_started": 1.0}, "killed"),  # another process has got its number
        ({**own(), "pid": 2**22 + 1}, "killed"),
        ({**own(), "host": "elsewhere"}, "running"),  # its file was touched just now
        ({**own(), "pid": 2**22 + 1, "state": "finished"}, "finished"),
        ({**own(), "state": "failed", "message": "step 3: no data"}, "failed"),
    ],
)
def test_states_are_what_the_files_say(tmp_path: Path, record: dict[str, Any], state: str):
    run = summarise(write_run(tmp_path / "run", **{"state": "running", **record}))
    assert run.state == state and run.message == record.get("message", "")
    going_on = "" if state in ("running", "finished") else "cd /somewhere && multimodal-ai train -c 'a b.yaml'"
    assert run.resume == going_on


def test_a_run_on_another_machine_that_has_gone_still_was_killed(tmp_path: Path):
    folder = write_run(tmp_path / "run", state="running", host="elsewhere")
    old = time.time() - 2 * run_record.SILENT_SECONDS
    os.utime(folder / "run.json", (old, old))
    assert summarise(folder).state == "killed"


def test_a_process_that_ended_but_was_not_waited_for_is_dead(tmp_path: Path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = psutil.Process(child.pid)
    record = RunRecord("x", pid=child.pid, process_started=process.create_time(), host=socket.gethostname())
    assert state_of(record, 0) == "running"
    child.kill()
    end = time.monotonic() + 10
    while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.01)
    assert state_of(record, 0) == "killed"
    child.wait()


def test_runs_are_found_in_folders_below_and_the_newest_comes_first(tmp_path: Path):
    for number, name in enumerate(("a", "group/b", "group/deep/c", "data/no", ".hidden/no", "a/checkpoints/no")):
        folder = write_run(tmp_path / name, '{"step": 1, "loss": 2}\n')
        os.utime(folder / "metrics.jsonl", (number, number))
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [run.path.removeprefix(f"{tmp_path}/") for run in find_runs(tmp_path)] == ["group/deep/c", "group/b", "a"]
    assert find_runs(tmp_path)[0].state == "unknown"
    with pytest.raises(ValueError, match="no such folder"):
        find_runs(tmp_path / "nowhere")


def test_damaged_files_are_passed_over(tmp_path: Path):
    lines = '{"step": 7, "loss": 1.5}\n[1]\nnot json\n{"step": 8, "eval/x": 1}\n\n{"step": 9, "lo'
    folder = write_run(tmp_path / "run", lines)
    (folder / "run.json").write_text('{"stage": "ali')
    run = summarise(folder)
    assert (run.state, run.step, run.loss) == ("unknown", 7, 1.5)
    (folder / "run.json").write_text('{"step": 1}')
    (folder / "metrics.jsonl").write_bytes(b"\xff\xfe\n" * 5 + b'{"step": 3, "loss": NaN}\n')
    assert (summarise(folder).step, summarise(folder).loss) == (3, None)
    json.dumps(asdict(summarise(folder)), allow_nan=False)


@pytest.mark.parametrize("block", [1, 7, 64, 10**6])
def test_a_file_is_read_from_its_end(tmp_path: Path, block: int):
    rows = [{"step": step, "text": "é" * (step % 5)} for step in range(30)]
    (tmp_path / "m").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert list(read_json_lines_backwards(tmp_path / "m", block)) == rows[::-1]


def test_hundreds_of_runs_with_thousands_of_lines_take_no_time(tmp_path: Path):
    lines = "".join(f'{{"step": {step}, "loss": {step / 7}}}\n' for step in range(1, 20_001))
    first = write_run(tmp_path / "run0", lines, state="finished", total_steps=20_000)
    for number in range(1, 200):
        folder = write_run(tmp_path / f"run{number}", state="finished", total_steps=20_000)
        os.link(first / "metrics.jsonl", folder / "metrics.jsonl")
    began = time.process_time()
    found = find_runs(tmp_path)
    assert time.process_time() - began < 1
    assert len(found) == 200 and all(run.step == 20_000 for run in found)


def test_only_one_process_trains_into_a_folder(tmp_path: Path):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(other.pid).create_time()
    write_run(tmp_path / "run", state="running", pid=other.pid, process_started=started, host=socket.gethostname())
    keeper = RunKeeper(tmp_path / "run", True, new_record("alignment", 1, {}))
    with pytest.raises(ValueError, match=f"is being trained by process {other.pid} on .* another output_dir"):
        keeper.wait_for_other(patience=0.1)
    other.kill()
    other.wait()
    keeper.wait_for_other(patience=10)


def test_the_record_follows_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_record, "BEAT_SECONDS", 0.01)
    keeper = RunKeeper(tmp_path, True, new_record("alignment", 2, {"precision": "bf16"}))
    with pytest.raises(ZeroDivisionError), keeper.running(3, 10):
        os.utime(tmp_path / "run.json", (1, 1))
        end = time.monotonic() + 10
        while (tmp_path / "run.json").stat().st_mtime == 1 and time.monotonic() < end:
            time.sleep(0.01)
        found = read_record(tmp_path)
        assert found is not None and found[1] > 1, "the file shows that the run lives"
        assert state_of(*found) == "running" and (found[0].step, found[0].total_steps) == (3, 10)
        keeper.plan(20)
        raise ZeroDivisionError("by zero\nat length")
    found = read_record(tmp_path)
    assert found is not None
    assert (found[0].state, found[0].message, found[0].total_steps) == ("failed", "by zero", 20)


@pytest.mark.parametrize(
    "command, typed",
    [
        (["/v/bin/python3.11", "/v/bin/multimodal-ai", "train"], ["multimodal-ai", "train"]),
        (["/v/bin/python", "-m", "multimodal_ai.cli", "train"], ["multimodal-ai", "train"]),
        (["/v/bin/python", "/v/bin/torchrun", "--nproc-per-node", "2"], ["torchrun", "--nproc-per-node", "2"]),
        (["/v/bin/python", "scripts/train.py"], ["python", "scripts/train.py"]),
        (["make", "train"], ["make", "train"]),
    ],
)
def test_commands_are_told_as_they_are_typed(command: list[str], typed: list[str]):
    assert run_record._as_typed(command) == typed


def test_the_command_is_the_launchers_where_there_is_one(tmp_path: Path):
    program = (
        "import json, psutil; from multimodal_ai.training.run_record import started_by; "
        "print(json.dumps(started_by(psutil.Process())))"
    )
    launcher = tmp_path / "torchrun"
    launcher.write_text("import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', sys.argv[1]]))")
    for command, told in (([str(launcher), program], ["torchrun", program]), (["-c", program], None)):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == (told or ["python", "-c", program])


def test_how_long_ago_in_words():
    assert [ago(0, seconds) for seconds in (-5, 59, 60, 7300, 86400 * 3)] == [
        "just now", "just now", "1 minute ago", "2 hours ago", "3 days ago",
    ]  # fmt: skip
