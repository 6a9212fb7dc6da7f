"""A real server process: SIGTERM lets what has begun be finished, and takes nothing new."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
from typer.testing import CliRunner

from multimodal_ai.cli import app
from multimodal_ai.data.tokenizer import Tokenizer

from .conftest import save_engine, small_engine, wait_until

BODY = {
    "model": "small",
    "messages": [{"role": "user", "content": "hi"}],
    "stream": True,
    "temperature": 1.5,
    "seed": 2,
    "max_tokens": 800,
    "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "array", "minItems": 400}}},
}


def test_sigterm_drains(small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = save_engine(small_engine(small_tokenizer), tmp_path / "small")
    command = [sys.executable, "-m", "multimodal_ai.cli", "serve", "-m", str(folder), "--port", "0", "--device", "cpu"]
    command += ["--set", "drain_seconds=120"]  # however slow the machine is
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    try:
        wait_until(lambda: re.search(r"http://127.0.0.1:\d+", log.read_text()) or process.poll() is not None, 120)
        found = re.search(r"http://127.0.0.1:\d+", log.read_text())
        assert found is not None, log.read_text()
        url = found[0]
        assert httpx.get(f"{url}/ready").json() == {"status": "ready"}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=BODY, timeout=60) as response:
            lines = response.iter_lines()
            first = next(line for line in lines if line)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: refuses(url))
            rest = [line for line in lines if line]
        chunks = [json.loads(line.removeprefix("data: ")) for line in [first, *rest[:-1]]]
        assert rest[-1] == "data: [DONE]" and chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
        assert len(chunks) > 20, "it was still being written when the signal came"
        assert process.wait(60) == 143
    finally:
        process.kill()
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    served = next(line for line in logged if line.get("path") == "/v1/chat/completions")
    assert served["status"] == 200 and served["path"] == "/v1/chat/completions" and served["completion_tokens"] > 20


def refuses(url: str) -> bool:
    """Whether the server takes nothing new."""
    try:
        return httpx.get(f"{url}/ready", timeout=5).status_code == 503
    except httpx.TransportError:
        return True


def test_serving_says_what_is_wrong_with_its_settings(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["serve", "-m", str(tmp_path), "--set", "max_imagse=1"])
    assert done.exit_code == 2 and "max_images" in done.output
