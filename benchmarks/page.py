"""Frames of the page while an answer of 5,000 tokens arrives, in headless Chromium.

    python benchmarks/page.py --json page.json

A scripted server streams the answer in the API's form, so that only the page is measured: its reading of the stream,
its rendering, and the browser's layout and painting. Kinds of answer: prose (paragraphs, lists, tables and code, as
answers are), and the worst ones: a single list, a single table and a single block of code, whose last block is the
whole answer. `frame`: ms between two animation frames, by the clock, so that it also shows what else the machine does.
`busy`: ms of processor time of the page's main thread for each frame, all scripts, styles and layout together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from playwright.sync_api import CDPSession, Page, sync_playwright

from multimodal_ai.serving.page_files import add_page

PARAGRAPH = "The meter in the **garden** shows `3772` litres, which is *more* than last week; see [the log](/log). "
PROSE = (
    f"## Readings\n\n{PARAGRAPH * 3}\n\n- one reading of the garden\n- two readings of the kitchen\n\n"
    "| meter | value |\n|---|--:|\n| garden | 3772 |\n| kitchen | 120 |\n\n"
    f"```python\ndef total(readings):\n    return sum(value for _, value in readings)\n```\n\n{PARAGRAPH}\n\n"
)
KINDS = {
    "prose": ("", PROSE),
    "list": ("", "- a reading of **3772** litres in the `garden`\n"),
    "table": ("| meter | value | note |\n|---|--:|---|\n", "| garden | 3772 | read *today* |\n"),
    "code": ("```python\n", "total = sum(value for _, value in readings)\n"),
}
RECORD = """() => {
  window.frames_ = [];
  let last = performance.now();
  const step = (now) => { window.frames_.push(now - last); last = now; requestAnimationFrame(step); };
  requestAnimationFrame((now) => { last = now; requestAnimationFrame(step); });
}"""


def scripted_server(tokens: int, rate: float) -> FastAPI:
    """An app that serves the page and answers with `tokens` pieces of 4 characters, `rate` a second."""
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"data": [{"id": "scripted", "x_context_tokens": 8192}]}

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, Any]) -> StreamingResponse:
        begin, again = KINDS[body["messages"][-1]["content"]]
        text = (begin + again * (tokens * 4 // len(again) + 1))[: tokens * 4]

        async def events() -> AsyncIterator[str]:
            began = time.monotonic()
            for number in range(tokens):
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                delta = {"content": text[4 * number : 4 * number + 4]}
                yield f"data: {json.dumps({'choices': [{'delta': delta, 'finish_reason': None}]})}\n\n"
            usage = {"prompt_tokens": 10, "completion_tokens": tokens}
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    add_page(app)
    return app


def task_seconds(devtools: CDPSession) -> float:
    """Processor time that the page's main thread has spent so far."""
    metrics = {metric["name"]: metric["value"] for metric in devtools.send("Performance.getMetrics")["metrics"]}
    return metrics["TaskDuration"]


def measure(page: Page, url: str, kind: str, tokens: int) -> dict[str, Any]:
    """Frames of one answer."""
    page.goto(url)
    page.get_by_text("scripted").wait_for()
    page.get_by_label("Message", exact=True).fill(kind)
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    busy = -task_seconds(devtools)
    page.evaluate(RECORD)
    page.get_by_role("button", name="Send", exact=True).click()
    page.get_by_text(f"{tokens} tokens").wait_for(timeout=600_000)
    frames = np.array(page.evaluate("window.frames_"))
    busy += task_seconds(devtools)
    row = {"kind": kind, "tokens": tokens, "frames": len(frames), "seconds": round(float(frames.sum()) / 1000, 2)}
    row |= {f"frame_p{share}": round(float(np.percentile(frames, share)), 1) for share in (50, 95, 99)}
    row["busy_mean"] = round(1000 * busy / len(frames), 2)
    return row | {"frame_max": round(float(frames.max()), 1), "within_20_ms": round(float((frames <= 20.5).mean()), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=5000, help="pieces of an answer")
    parser.add_argument("--rate", type=float, default=500, help="pieces a second")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium", help="the browser's program")
    parser.add_argument("--json", type=Path, help="write the rows there")
    given = parser.parse_args()
    server = uvicorn.Server(uvicorn.Config(scripted_server(given.tokens, given.rate), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        rows = []
        for kind in KINDS:
            rows.append(measure(browser.new_page(), url, kind, given.tokens))
            print(json.dumps(rows[-1]), flush=True)
        browser.close()
    server.should_exit = True
    thread.join()
    if given.json:
        given.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
