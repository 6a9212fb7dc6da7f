"""Log lines, progress without a terminal, peak memory."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest
from rich.console import Console

from multimodal_ai.utils import logger


def test_results_on_stdout_stay_free_of_logs() -> None:
    program = "from multimodal_ai.utils.logger import get_logger; get_logger('x').info('hello'); print('42')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"
    assert "hello" in done.stderr


def test_the_root_logger_is_left_alone() -> None:
    before = list(logging.getLogger().handlers)
    first, again = logger.get_logger("multimodal_ai.part"), logger.get_logger("part")
    assert first is again
    assert logging.getLogger().handlers == before
    assert len(logging.getLogger("multimodal_ai").handlers) == 1


@pytest.mark.parametrize(("rank", "lines"), [("0", 2), ("1", 0)])
def test_without_a_terminal_progress_is_a_few_plain_lines(monkeypatch, rank: str, lines: int) -> None:
    out = io.StringIO()
    monkeypatch.setattr(logger, "console", Console(file=out, width=200))
    monkeypatch.setenv("RANK", rank)
    with logger.progress() as bar:
        task = bar.add_task("reading [files]", total=1000)
        for _ in range(1000):
            bar.advance(task)
        other = bar.add_task("second", total=2)
        bar.update(other, completed=2)
        bar.update(other, completed=2)
    written = out.getvalue().splitlines()
    assert len(written) == lines
    if lines:
        assert written[0].startswith("reading [files]: 1000/1000, 0:0")
        assert written[1].startswith("second: 2/2")


def test_lines_come_at_intervals_and_tell_the_time_left(monkeypatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(logger, "console", Console(file=out, width=200))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(logger, "LINE_SECONDS", 0.0)
    with logger.progress() as bar:
        task = bar.add_task("steps", total=4)
        bar.advance(task)
        bar.advance(task)
    assert "left" in out.getvalue().splitlines()[-1]


def test_peak_memory_grows_with_what_is_held() -> None:
    program = (
        "from multimodal_ai.utils.logger import peak_memory_gb as p; a = p(); x = bytearray(200_000_000); "
        "x[::4096] = b'1' * len(x[::4096]); print(p() - a)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(0.2, abs=0.02)
