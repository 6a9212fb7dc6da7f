"""A browser, and the page in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..conftest import Running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from .visitor import CHROMIUM, FLAGS, PATIENCE, expect, playwright

    expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """`visit(running, settings={…}, width=…)`: the page.

    `visit.complaints` holds the errors of its console, those of the policy too; in the end there must be none.
    """
    from .visitor import PATIENCE, expect

    contexts: list[Any] = []
    complaints: list[str] = []

    def go(running: Running, settings: dict[str, Any] | None = None, width: int = 1200, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        kept = json.dumps(json.dumps({"maxTokens": "16", **(settings or {})}))
        context.add_init_script(f"localStorage.getItem('settings') ?? localStorage.setItem('settings', {kept})")
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if is_complaint(line) else None)
        page.goto(running.url)
        expect(page.locator("#model")).not_to_have_text("…")
        return page

    go.complaints = complaints  # type: ignore[attr-defined]
    yield go
    for context in contexts:
        context.close()
    assert not complaints


def is_complaint(line: Any) -> bool:
    """Whether a line of the console is an error; a status that the page puts into words is none."""
    return line.type == "error" and "Failed to load resource" not in line.text
