"""Two real replicas over Ray Serve: one is killed under load, and nothing is lost that had not begun to stream."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import psutil
import pytest

from multimodal_ai.data.tokenizer import Tokenizer

from .conftest import LOG_READING, save_engine, small_engine, wait_until

pytest.importorskip("ray", reason="the extra `ray` is not installed: pip install -r requirements-ray.txt")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FUNCTIONS = '''
from multimodal_ai.functions.registry import function


@function(read_only=True)
def look_up(place: str) -> str:
    """Look a place up."""
    return "nothing"
'''
LONG: dict[str, Any] = {"max_tokens": 400, "temperature": 1.5, "seed": 2}
SETTINGS = ("ray.min_replicas=2", "ray.max_replicas=2", "ray.cpus=0.4", "drain_seconds=120", "request_seconds=300")


class Served:
    """`multimodal-ai serve --ray` in processes of its own."""

    def __init__(self, folder: Path) -> None:
        functions = folder / "functions.py"
        functions.write_text(FUNCTIONS)
        command = [sys.executable, "-m", "multimodal_ai.cli", "serve", "--ray", "-m", str(folder), "--port", "0"]
        command += ["--device", "cpu", "--functions", str(functions)]
        command += [word for setting in SETTINGS for word in ("--set", setting)]
        self.log = folder / "log"
        with self.log.open("w") as file:
            self.process = subprocess.Popen(command, stderr=file, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
        try:
            wait_until(lambda: self._address() or self.process.poll() is not None, 400)
            found = self._address()
            assert found is not None, self.log.read_text()
        except BaseException:
            self.end()
            raise
        self.url = found[0]
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=400)

    def _address(self) -> re.Match[str] | None:
        return re.search(r"http://127.0.0.1:\d+", self.log.read_text())

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def replicas(self) -> list[psutil.Process]:
        found = []
        for child in self.children():
            try:
                if any(word.startswith("ray::ServeReplica") for word in child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue
        return found

    def ready(self) -> int:
        return httpx.get(f"{self.url}/ready", timeout=60).json()["replicas"]

    def end(self) -> None:
        """Whatever happened: leave no process behind."""
        if self.process.poll() is None:
            left = self.children()
            self.process.kill()
            for child in left:
                with contextlib.suppress(psutil.Error):
                    child.kill()
        self.process.wait(30)


@pytest.fixture(scope="module")
def served(small_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = save_engine(small_engine(small_tokenizer), tmp_path_factory.mktemp("replicas") / "small")
    made = Served(folder)
    yield made
    made.end()


def ask(client: openai.OpenAI, number: int, seen: Counter[str]) -> None:
    """One request of a mix; counts how it ended."""
    asked: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": f"request {number}"}]}
    begun, kind = False, ("whole", "call", "stream", "long stream")[number % 4]
    try:
        if kind == "whole":
            client.chat.completions.create(**asked, **LONG)
        elif kind == "call":
            made = client.chat.completions.create(**asked, tools=[LOG_READING], tool_choice="required", max_tokens=150)
            assert made.choices[0].message.tool_calls
        else:
            options = LONG if kind == "long stream" else {"max_tokens": 8}
            ends = []
            for chunk in client.chat.completions.create(**asked, **options, stream=True):
                begun = True
                ends += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
            assert ends in (["stop"], ["length"])
        seen[f"{kind}: complete"] += 1
    except openai.APIError as error:
        seen[f"{kind}: {'begun' if begun else 'lost'} {error.code or repr(error)}"] += 1


def test_a_killed_replica_loses_nothing_that_had_not_begun_to_stream(served: Served) -> None:
    assert served.ready() == 2
    victims = served.replicas()
    assert len(victims) == 2
    seen: Counter[str] = Counter()
    stop = threading.Event()
    numbers = iter(range(1_000_000))

    def client() -> None:
        while not stop.is_set():
            ask(served.client, next(numbers), seen)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(seen.values()) >= 30, 300)
    before = sum(seen.values())
    victims[0].send_signal(signal.SIGKILL)
    wait_until(lambda: sum(seen.values()) >= before + 60, 300)
    wait_until(lambda: served.ready() == 2, 300)
    stop.set()
    for thread in threads:
        thread.join(300)
    lost = {name: count for name, count in seen.items() if not name.endswith("complete")}
    assert set(lost) <= {"long stream: begun replica_lost", "stream: begun replica_lost"}, seen
    assert all(seen[f"{kind}: complete"] for kind in ("whole", "call", "stream", "long stream"))
    text = httpx.get(f"{served.url}/metrics").text
    retried = re.search(r'replicas_lost_total\{then="retried"\} (\d+)', text)
    assert retried is not None and int(retried[1]) > 0, "some had not begun to stream, and were asked again"
    assert victims[0].pid not in {replica.pid for replica in served.replicas()}


def test_replicas_run_their_functions_and_report(served: Served) -> None:
    made = served.client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": "look"}],
        tool_choice={"type": "function", "function": {"name": "look_up"}},
        max_tokens=60,
        extra_body={"x_execute": True},
    )
    assert made.x_steps[0]["name"] == "look_up"
    time.sleep(3)
    text = httpx.get(f"{served.url}/metrics").text
    names = set(re.findall(r'multimodal_ai_running\{replica="(\w+)"\}', text))
    assert len(names) == 2, text
    logged = [json.loads(line) for line in served.log.read_text().splitlines() if line.startswith("{")]
    assert any(line.get("completion_tokens") and line["path"] == "/v1/chat/completions" for line in logged)


def test_sigterm_drains_and_leaves_no_process(served: Served) -> None:
    children = served.children()
    body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 400}
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body, timeout=200) as response:
        lines = response.iter_lines()
        first = next(line for line in lines if line)
        served.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert first.startswith("data: {") and rest[-1] == "data: [DONE]"
    assert served.process.wait(120) == 143
    _, alive = psutil.wait_procs(children, 30)
    assert not alive, [process.cmdline() for process in alive]
