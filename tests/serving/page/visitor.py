"""A person at the page: words for what tests do in it.

Importing this skips a test module where there is no Chromium or no Playwright: `apt-get install chromium` and the
`dev` extra bring them.
"""

from __future__ import annotations

import base64
import json
import shutil
from typing import Any

import pytest

from ..conftest import data_url

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install 'multimodal-ai[dev]'")
expect = playwright.expect
PATIENCE = 60_000  # ms; only what never comes takes so long
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


def say(page: Any, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def answered(page: Any, count: int = 1) -> Any:
    """The last answer, once it is complete and there are so many."""
    expect(page.get_by_role("article", name="Assistant")).to_have_count(count)
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    return page.get_by_role("article", name="Assistant").last


def bodies(page: Any) -> list[dict[str, Any]]:
    """The chat requests that the page sends, from now on."""
    sent: list[dict[str, Any]] = []
    page.on("request", lambda asked: sent.append(asked.post_data_json) if asked.url.endswith("completions") else None)
    return sent


def offer(*tools: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Settings under which functions were pasted before."""
    return {"functions": [{"tool": tool, "enabled": True} for tool in tools], "maxTokens": "200", **settings}


def png_bytes() -> bytes:
    return base64.b64decode(data_url().partition(",")[2])


IMPORTED = {
    "title": "Meters",
    "root": {"children": ["u"], "chosen": 0},
    "nodes": {
        "u": {"role": "user", "text": "Log 12 for the Garden, not 120", "children": ["a"], "chosen": 0},
        "a": {
            "role": "assistant",
            "text": "",
            "children": [],
            "calls": [
                {
                    "id": "call_1",
                    "name": "log_reading",
                    "arguments": '{"meter":"garden","value":12}',
                    "confidence": 0.83,
                    "sources": {
                        "meter": {"origin": "user", "copied": 1.0},
                        "value": {"origin": "generated", "copied": 0},
                    },
                }
            ],
        },
    },
}


def load(page: Any, *conversations: dict[str, Any]) -> None:
    """Import conversations through the page."""
    file = {"format": "multimodal_ai conversations", "version": 1, "conversations": conversations}
    buffer = {"name": "c.json", "mimeType": "application/json", "buffer": json.dumps(file).encode()}
    page.get_by_label("File to import").set_input_files(buffer)
