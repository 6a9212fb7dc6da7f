"""Load: many clients, mixed requests, some that leave and some that read slowly, against one server.

    python benchmarks/load.py --model runs/quickstart --clients 64 --seconds 300

It starts `multimodal-ai serve` (or takes --url), lets every client ask one thing after the other through the `openai`
client, and prints: requests by kind, refusals (429), errors that are no refusal, time to the first piece and to the
whole reply, tokens/s, and how the server's memory grew between the second and the last fifth of the run. The exit code
is 1 where there was an error that is no 429, or memory grew by more than --growth.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openai
import psutil
from PIL import Image

KINDS = ("text", "stream", "image_call", "json", "leaves", "slow_reader", "embeddings", "choices")
TOOL = {
    "type": "function",
    "function": {
        "name": "log_reading",
        "description": "Store the reading of a meter",
        "parameters": {
            "type": "object",
            "properties": {"meter": {"type": "string"}, "value": {"type": "integer"}, "unit": {"enum": ["kWh", "m3"]}},
            "required": ["meter", "value", "unit"],
        },
    },
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}


@dataclass
class Tally:
    """What the clients saw; times in seconds."""

    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    tokens: int = 0


def picture(seed: int) -> str:
    """A random picture as a data URL."""
    pixels = np.random.default_rng(seed).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


async def ask(client: openai.AsyncOpenAI, model: str, kind: str, rng: random.Random, tally: Tally) -> None:
    """One request of a kind."""
    words = f"Log {rng.randrange(10_000)} kWh for the {rng.choice(['garden', 'kitchen', 'attic'])} meter"
    content: Any = words
    if kind == "image_call":
        shown = {"type": "image_url", "image_url": {"url": picture(rng.randrange(50))}}
        content = [shown, {"type": "text", "text": words}]
    asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 64}
    began = time.monotonic()
    if kind == "embeddings":
        await client.embeddings.create(model=model, input=[words, words[:10]])
        return
    if kind == "image_call":
        asked.update(tools=[TOOL], tool_choice=rng.choice(["auto", "required"]))
    elif kind == "json":
        asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    elif kind == "choices":
        asked.update(n=2, temperature=1.0, seed=rng.randrange(100), logprobs=True, top_logprobs=5)
    if kind not in ("stream", "leaves", "slow_reader"):
        completion = await client.chat.completions.create(**asked)
        tally.tokens += completion.usage.completion_tokens
        tally.whole.append(time.monotonic() - began)
        return
    asked.update(stream=True, temperature=1.0, stream_options={"include_usage": True})
    leave_after = rng.randrange(1, 6) if kind == "leaves" else 1 << 30
    stream = await client.chat.completions.create(**asked)
    seen = 0
    async with stream:
        async for chunk in stream:
            if not seen:
                tally.first.append(time.monotonic() - began)
            seen += 1
            tally.tokens += chunk.usage.completion_tokens if chunk.usage else 0
            if seen >= leave_after:
                return
            if kind == "slow_reader":
                await asyncio.sleep(0.05)
    tally.whole.append(time.monotonic() - began)


async def one_client(number: int, url: str, key: str, model: str, until: float, tally: Tally) -> None:
    """Ask until the time is over; wait where the server says so."""
    rng = random.Random(number)
    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=180) as client:
        while time.monotonic() < until:
            kind = rng.choice(KINDS)
            try:
                await ask(client, model, kind, rng, tally)
                tally.done[kind] += 1
            except openai.RateLimitError as error:
                tally.refused[kind] += 1
                await asyncio.sleep(float(error.response.headers.get("retry-after", 1)) * rng.uniform(0.5, 1.5))
            except openai.APIStatusError as error:
                tally.errors[f"{kind}: {error.status_code} {error.message[:100]}"] += 1
            except openai.APIError as error:
                tally.errors[f"{kind}: {type(error).__name__} {str(error)[:100]}"] += 1


async def watch_memory(process: psutil.Process | None, until: float) -> list[int]:
    """Resident bytes of the server, once a second."""
    sizes = []
    while process is not None and time.monotonic() < until:
        sizes.append(process.memory_info().rss)
        await asyncio.sleep(1)
    return sizes


@contextlib.contextmanager
def server(model: Path, settings: list[str]) -> Iterator[tuple[str, psutil.Process]]:
    """A server process of its own; stopped by SIGTERM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "multimodal_ai.cli", "serve", "-m", str(model), "--port", str(port), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1):
                break
            time.sleep(0.2)
        else:
            raise SystemExit(f"the server ended with {process.returncode}")
        yield f"http://127.0.0.1:{port}/v1", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


async def run(
    url: str, key: str, clients: int, seconds: float, process: psutil.Process | None
) -> tuple[Tally, list[int]]:
    """All clients at once, for so many seconds."""
    async with openai.AsyncOpenAI(base_url=url, api_key=key) as client:
        model = (await client.models.list()).data[0].id
    tally, until = Tally(), time.monotonic() + seconds
    work = [one_client(number, url, key, model, until, tally) for number in range(clients)]
    sizes, *_ = await asyncio.gather(watch_memory(process, until), *work)
    return tally, sizes


def report(tally: Tally, sizes: list[int], clients: int, seconds: float) -> dict[str, Any]:
    """The numbers of a run."""
    fifth = len(sizes) // 5
    growth = None
    if fifth:
        growth = float(np.median(sizes[-fifth:]) - np.median(sizes[fifth : 2 * fifth])) / 1e6

    def spread(values: list[float]) -> dict[str, float]:
        if not values:
            return {}
        return {f"p{share}": round(float(np.percentile(values, share)), 4) for share in (50, 90, 99)}

    return {
        "clients": clients,
        "seconds": seconds,
        "requests": sum(tally.done.values()),
        "by_kind": dict(tally.done),
        "refused_429": sum(tally.refused.values()),
        "errors": dict(tally.errors),
        "time_to_first_piece_s": spread(tally.first),
        "time_to_reply_s": spread(tally.whole),
        "tokens_per_second": round(tally.tokens / seconds, 1),
        "memory_mb": round(float(np.median(sizes[-fifth:])) / 1e6, 1) if fifth else None,
        "memory_growth_mb": None if growth is None else round(growth, 1),
    }


def main() -> int:
    """Run, print, say whether it held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a trained model: starts a server of it")
    parser.add_argument("--url", help="a server that runs already, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="none")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--growth", type=float, default=64.0, help="MB by which the server's memory may grow")
    parser.add_argument("--set", action="append", default=[], help="a setting of the server, KEY=VALUE")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    given = parser.parse_args()
    if (given.model is None) == (given.url is None):
        parser.error("give --model or --url")
    with contextlib.ExitStack() as stack:
        url, process = stack.enter_context(server(given.model, given.set)) if given.model else (given.url, None)
        tally, sizes = asyncio.run(run(url, given.key, given.clients, given.seconds, process))
    numbers = report(tally, sizes, given.clients, given.seconds)
    print(json.dumps(numbers, indent=2))
    if given.json:
        given.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    grown = numbers["memory_growth_mb"]
    return int(bool(tally.errors) or (grown is not None and grown > given.growth))


if __name__ == "__main__":
    raise SystemExit(main())
