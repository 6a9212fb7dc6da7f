"""The page's files: served under a strict policy, and harmless whatever a model writes."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from multimodal_ai.serving.page_files import FOLDER

from ..conftest import Running


def test_every_file_is_served_under_the_strict_policy(running: Running) -> None:
    document = (FOLDER / "index.html").read_text()
    assert "<style" not in document and not re.search(r"<script(?! type=\"module\" src=)|\son\w+=|style=", document)
    files = [f"page/{file.relative_to(FOLDER)}" for file in FOLDER.rglob("*.*") if file.is_file()]
    assert len(files) > 20
    for path in ["", *files]:
        with urllib.request.urlopen(f"{running.url}/{path}") as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{running.url}/page/../app.py")
    assert caught.value.code == 404 and "error" in json.load(caught.value)


def test_libraries_come_with_their_licences() -> None:
    folders = [folder for folder in (FOLDER / "vendor").iterdir() if folder.is_dir()]
    assert len(folders) == 3
    for folder in folders:
        assert re.search(r"-\d+\.\d+\.\d+$", folder.name) and (folder / "LICENSE").stat().st_size > 500


MARKDOWN = """# Title

A *word*, `code` and [a link](https://example.org).

- one
- two

  more of two

| a | b |
|---|--:|
| 1 | 2 |

```python
def f(x):
    return x < 1
```

1. first

   > quoted

Text at last, with a [reference][1].

[1]: https://example.org/later
"""
HOSTILE = """<script>window.hit = 1</script><img src=x onerror="window.hit = 1">

![p](http://127.0.0.1:9/leak?secret)
<a href="javascript:window.hit=1">x</a> [y](javascript:window.hit=1) <form action="/x"><input name=a></form>
<iframe srcdoc="<script>parent.hit=1</script>"></iframe><svg onload="window.hit=1"></svg>
<p style="color:red" id=log>t</p>
"""
RENDER = """async ([text, cuts]) => {
  const {MarkdownView} = await import('/page/markdown.js');
  const view = new MarkdownView(document.createElement('div'));
  document.body.append(view.element);
  for (const cut of cuts) view.update(text.slice(0, cut));
  view.finish(text);
  return view.element.innerHTML.replaceAll(/>\\s+</g, '><');
}"""


def test_markdown_is_the_same_however_it_arrives(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running)
    for text in (MARKDOWN, MARKDOWN.partition("[1]:")[0], MARKDOWN.replace("\n", "\r\n")):
        whole = page.evaluate(RENDER, [text, []])
        for tag in ("<h1>", "<em>", "<li>", "<table>", "<blockquote>", "def f(x):\n    return x &lt; 1"):
            assert tag in whole
        for step in (1, 7, 40):
            assert page.evaluate(RENDER, [text, list(range(0, len(text), step))]) == whole
    assert 'rel="noopener noreferrer"' in whole


def test_what_a_model_writes_cannot_run_or_fetch(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    shown = page.evaluate(RENDER, [HOSTILE, list(range(0, len(HOSTILE), 9))])
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None
    assert not re.search(r"<(script|img|form|iframe|svg|style)|javascript:|onerror|style=|id=", shown)
    assert not [url for url in asked if "/page/" not in url]
    assert "[image: p]" in shown
    assert all("inline style violates" in complaint for complaint in visit.complaints), "that was the model's"
    visit.complaints.clear()
