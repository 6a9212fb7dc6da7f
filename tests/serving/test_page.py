"""The page in a real browser against the real server: what a person does, by role and label.

Skipped where there is no Chromium or no Playwright: `apt-get install chromium` and the `dev` extra bring them.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multimodal_ai.functions import FunctionRegistry, FunctionSpec, validate_arguments
from multimodal_ai.inference import Request
from multimodal_ai.serving.config import key_hash
from multimodal_ai.serving.page_files import FOLDER

from .conftest import LOG_READING, Running, data_url, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
expect = playwright.expect
PATIENCE = 60_000  # ms; only what never comes takes so long
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """`visit(running, settings={…}, width=…)`: the page. Its console must stay without errors, the policy's too."""
    contexts, complaints = [], []

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

    yield go
    for context in contexts:
        context.close()
    assert not complaints


def is_complaint(line: Any) -> bool:
    """Whether a line of the console is an error; a status that the page puts into words is none."""
    return line.type == "error" and "Failed to load resource" not in line.text


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


# -- the files -----------------------------------------------------------------------------------------------------


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


# -- talking -------------------------------------------------------------------------------------------------------


def test_an_answer_is_what_the_api_says_and_stays(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running, {"system": "Be brief.", "temperature": "0", "topP": "0.9"})
    sent = bodies(page)
    say(page, "Which city?")
    article = answered(page)
    for words in ("first token after", "tokens/s", "context", "of 400"):
        expect(article).to_contain_text(words)
    assert sent[0]["temperature"] == 0 and sent[0]["top_p"] == 0.9 and sent[0]["max_tokens"] == 16
    assert sent[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which city?"},
    ]
    said = running.client.chat.completions.create(**{**sent[0], "stream": False, "stream_options": None})
    page.reload()
    page.get_by_role("button", name="History", exact=True).click()
    if page.get_by_role("button", name="Which city?", exact=True).is_hidden():
        page.get_by_role("button", name="History", exact=True).click()
    page.get_by_role("button", name="Which city?", exact=True).click()
    stored = page.evaluate(
        "(async () => { const {loadAll} = await import('/page/store.js'); return await loadAll(); })()"
    )
    texts = [node["text"] for node in stored[0]["nodes"].values() if node["role"] == "assistant"]
    assert texts == [said.choices[0].message.content]
    expect(page.get_by_role("article", name="Assistant")).to_have_count(1)


def test_stop_frees_the_place(start: Callable[..., Running], visit: Callable[..., Any]) -> None:
    running = start(max_running=1, max_output_tokens=100_000)
    page = visit(running, {"maxTokens": "100000", "temperature": "1.5"})
    say(page, "Go on for ever")
    wait_until(lambda: running.scheduler.running == 1)
    page.get_by_role("button", name="Stop").click()
    wait_until(lambda: not running.scheduler.running, 10)
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    assert running.chat(max_tokens=2).choices


def test_edits_and_retries_are_branches(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running)
    sent = bodies(page)
    say(page, "one")
    answered(page).get_by_role("button", name="Retry").click()
    answered(page)
    branches = page.get_by_role("group", name="Branches")
    expect(branches).to_contain_text("2/2")
    user = page.get_by_role("article", name="You")
    user.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit message").fill("two")
    page.get_by_role("button", name="Send as new branch").click()
    answered(page)
    assert [body["messages"] for body in sent] == [
        [{"role": "user", "content": text}] for text in ("one", "one", "two")
    ]
    expect(user).to_contain_text("two")
    user.get_by_role("button", name="Previous branch").click()
    expect(user).to_contain_text("one")
    page.get_by_role("article", name="Assistant").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("article", name="Assistant")).not_to_contain_text("2/2")


def png_bytes() -> bytes:
    return base64.b64decode(data_url().partition(",")[2])


# -- images --------------------------------------------------------------------------------------------------------

PASTE = """(url) => {
  const bytes = Uint8Array.from(atob(url.split(',')[1]), sign => sign.charCodeAt(0));
  const blob = new Blob([bytes], {type: 'image/png'});
  const data = new DataTransfer();
  data.items.add(new File([blob], 'a.png', {type: 'image/png'}));
  for (const [kind, place, key] of [['paste', '#message', 'clipboardData'], ['drop', 'main', 'dataTransfer']]) {
    const event = kind === 'paste' ? new ClipboardEvent(kind, {[key]: data, bubbles: true, cancelable: true})
      : new DragEvent(kind, {[key]: data, bubbles: true, cancelable: true});
    document.querySelector(place).dispatchEvent(event);
  }
}"""


def test_images_are_chosen_pasted_dropped_and_taken(running: Running, visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit(running, permissions=["camera"])
    sent = bodies(page)
    picture = tmp_path / "red.png"
    picture.write_bytes(png_bytes())
    (tmp_path / "notes.txt").write_text("no picture")
    page.get_by_label("Image files").set_input_files([picture, tmp_path / "notes.txt"])
    expect(page.get_by_role("status")).to_contain_text("no picture")
    tray = page.get_by_role("list", name="Images to send")
    expect(tray.get_by_role("listitem")).to_have_count(1)
    page.evaluate(PASTE, data_url(colour="blue"))
    expect(tray.get_by_role("listitem")).to_have_count(3)
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Take picture").click()
    expect(tray.get_by_role("listitem")).to_have_count(4)
    page.get_by_role("button", name="Remove image 2").click()
    say(page, "What is this?")
    answered(page)
    parts = sent[0]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "image_url", "text"]
    assert parts[0]["image_url"]["url"] == data_url() and parts[1]["image_url"]["url"] == data_url(colour="blue")
    assert parts[2]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    user = page.get_by_role("article", name="You")
    user.get_by_role("button", name="Show image 1").click()
    expect(page.get_by_role("dialog", name="Picture")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Picture")).to_be_hidden()


# -- Markdown ------------------------------------------------------------------------------------------------------

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
HOSTILE = """<script>window.hit = 1</script><img src=x onerror="window.hit = 1">![p](http://127.0.0.1:9/leak?secret)
<a href="javascript:window.hit=1">x</a> [y](javascript:window.hit=1) <form action="/x"><input name=a></form>
<iframe srcdoc="<script>parent.hit=1</script>"></iframe><svg onload="window.hit=1"></svg><p style="color:red" id=log>t</p>
"""
RENDER = """async ([text, cuts]) => {
  const {MarkdownView} = await import('/page/markdown.js');
  const view = new MarkdownView(document.createElement('div'));
  document.body.append(view.element);
  for (const cut of cuts) view.update(text.slice(0, cut));
  view.finish(text);
  return view.element.innerHTML;
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


# -- functions -----------------------------------------------------------------------------------------------------


def test_functions_are_pasted_and_their_mistakes_shown(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running)
    page.get_by_role("button", name="Functions").click()
    panel = page.get_by_role("complementary", name="Functions")
    field, add = panel.get_by_label("Add functions"), panel.get_by_role("button", name="Check and add")
    broken = {**LOG_READING["function"], "parameters": {"type": "object", "properties": {"a": {"type": "objekt"}}}}
    for text, words in (
        ('{"name": ', "Not JSON"),
        ('{"parameters": {}}', "name"),
        ('{"name": "f", "parameters": 3}', "must be a JSON Schema"),
        (json.dumps(broken), "objekt"),
    ):
        field.fill(text)
        add.click()
        expect(panel.get_by_role("alert")).to_contain_text(words)
    field.fill(json.dumps(LOG_READING))
    add.click()
    box = panel.get_by_role("checkbox", name="log_reading")
    expect(box).to_be_checked()
    expect(page.get_by_role("button", name="Functions (1)")).to_be_visible()
    panel.get_by_label("The model calls one").select_option("required")
    page.reload()
    expect(page.get_by_role("button", name="Functions (1)")).to_be_visible()
    page.get_by_role("button", name="Functions (1)").click()
    expect(panel.get_by_label("The model calls one")).to_have_value("required")
    box.uncheck()
    expect(page.get_by_role("button", name="Functions", exact=True)).to_be_visible()


def test_a_call_is_edited_approved_answered_and_goes_on(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running, offer(LOG_READING, toolChoice="log_reading"))
    sent = bodies(page)
    say(page, "Log 12 for the garden")
    answered(page)
    card = page.get_by_role("region", name="Call of log_reading").first
    expect(card).to_contain_text("waits for you")
    expect(card).to_contain_text("% sure")
    expect(card).to_contain_text("meter")
    card.get_by_role("button", name="Edit").click()
    card.get_by_label("Arguments as JSON").fill('{"meter": "cellar", "value": 7}')
    card.get_by_role("button", name="Save").click()
    expect(card.get_by_role("alert")).to_contain_text("meter")
    card.get_by_label("Arguments as JSON").fill('{"meter": "kitchen", "value": 7}')
    card.get_by_role("button", name="Save").click()
    expect(card).to_contain_text("edited by you")
    page.screenshot(path="/tmp/pg/call.png")
    cards = page.get_by_role("region", name="Call of log_reading")
    for other in range(1, cards.count()):
        cards.nth(other).get_by_role("button", name="Deny").click()
    card.get_by_role("button", name="Approve").click()
    card.get_by_label("Result of log_reading").fill('{"status":"stored"}')
    card.get_by_role("button", name="Give result").click()
    expect(page.get_by_role("article", name="Assistant")).to_have_count(2)
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    call = sent[1]["messages"][1]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"meter": "kitchen", "value": 7}
    answer = sent[1]["messages"][2]
    assert answer["tool_call_id"] == call["id"] and answer["content"] == '{"status":"stored"}'
    assert sent[0]["tool_choice"]["function"]["name"] == "log_reading" and sent[1]["tool_choice"] == "auto"
    expect(card).to_contain_text("ok")
    card.get_by_text("Result", exact=True).click()
    expect(card).to_contain_text('{"status":"stored"}')


def test_calls_fit_their_schema_and_denied_ones_go_back(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running, offer(LOG_READING, toolChoice="required"))
    sent = bodies(page)
    say(page, "Log it")
    answered(page)
    cards = page.get_by_role("region", name="Call of log_reading")
    shown = cards.count()
    assert shown
    for number in range(shown):
        cards.nth(number).get_by_role("button", name="Deny").click()
    expect(cards.first).to_contain_text("denied")
    expect(page.get_by_role("article", name="Assistant")).to_have_count(2)
    message, *results = sent[1]["messages"][1:]
    assert len(message["tool_calls"]) == len(results) == shown
    spec = FunctionSpec.from_tool(LOG_READING)
    for call in message["tool_calls"]:
        assert not validate_arguments(spec, json.loads(call["function"]["arguments"]))
    assert all("denied" in result["content"] for result in results)


PARTS = """async (text) => {
  const {partialArguments} = await import('/page/arguments.js');
  const whole = partialArguments(text);
  for (let cut = 0; cut <= text.length; cut++) {
    const parts = partialArguments(text.slice(0, cut));
    parts.forEach(([name, value], at) => {
      if (name !== whole[at][0] || !whole[at][1].startsWith(value)) throw new Error(text.slice(0, cut));
    });
  }
  return whole;
}"""


def test_arguments_are_read_while_they_arrive(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running)
    given = {"a": 'x,{"}', "b,:": [1, {"c": ":"}], "": {}, "d\\": None, "e": "ü\n"}
    text = json.dumps(given, separators=(",", ":"))
    whole = page.evaluate(PARTS, text)
    assert {name: json.loads(value) for name, value in whole} == given
    assert page.evaluate(PARTS, "{}") == []


LIT = "[...(CSS.highlights.get('provenance') ?? [])].map(String)"
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


def test_the_words_that_an_argument_came_from_light_up(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running, offer(LOG_READING))
    load(page, IMPORTED)
    page.get_by_role("button", name="Meters", exact=True).click()
    card = page.get_by_role("region", name="Call of log_reading")
    expect(card).to_contain_text("83% sure")
    expect(card).to_contain_text("the model's own")
    source = card.get_by_role("button", name="from your words, 100% copied")
    source.hover()
    assert page.evaluate(LIT) == ["Garden"]
    page.screenshot(path="/tmp/pg/lit.png")
    page.mouse.move(0, 0)
    assert page.evaluate(LIT) == []
    source.focus()
    assert page.evaluate(LIT) == ["Garden"]
    found = page.evaluate(
        "async () => (await import('/page/provenance.js')).findValue({a: [12, true]}, 'user').map(String)"
    )
    assert found == ["12"], "not the 12 in 120"


def test_the_server_runs_its_own_functions(start: Callable[..., Running], visit: Callable[..., Any]) -> None:
    registry = FunctionRegistry()

    @registry.function(read_only=True)
    def get_time() -> str:
        """The time of day."""
        return "12:30"

    page = visit(start(registry), offer(toolChoice="get_time", execute=True, maxTokens="60"))
    expect(page.get_by_role("button", name="Functions (1)")).to_be_visible()
    sent = bodies(page)
    say(page, "What time is it?")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden(timeout=60_000)
    assert sent[0]["x_execute"] is True and "tools" not in sent[0]
    card = page.get_by_role("region", name="Call of get_time").first
    expect(card).to_contain_text("ok")
    card.get_by_text("Result", exact=True).click()
    expect(card).to_contain_text("12:30")
    expect(card.get_by_role("button", name="Approve")).to_have_count(0)


# -- history -------------------------------------------------------------------------------------------------------


def test_history_is_searched_renamed_exported_imported_and_deleted(
    running: Running, visit: Callable[..., Any], tmp_path: Path
) -> None:
    page = visit(running)
    load(page, IMPORTED, {**IMPORTED, "title": "Other", "nodes": {}, "root": {"children": []}})
    titles = page.get_by_role("list", name="Conversations").get_by_role("listitem")
    expect(titles).to_have_count(2)
    search = page.get_by_label("Search history")
    search.fill("GARDEN")
    expect(titles).to_have_count(1)
    search.fill("")
    page.get_by_role("button", name="Rename Meters").click()
    page.get_by_label("New title").fill("Readings")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Readings", exact=True)).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    download.value.save_as(tmp_path / "kept.json")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete Readings").click()
    expect(titles).to_have_count(1)
    page.reload()
    expect(titles).to_have_count(1)
    page.get_by_label("File to import").set_input_files(tmp_path / "kept.json")
    expect(titles).to_have_count(3)
    page.get_by_role("button", name="Readings", exact=True).click()
    expect(page.get_by_role("article", name="You")).to_contain_text("Log 12")


def test_files_that_are_none_of_ours_are_refused_in_words(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running)
    remote = {"u": {"role": "user", "text": "", "children": [], "images": ["https://example.org/a.png"]}}
    for broken, words in (
        ({**IMPORTED, "nodes": remote}, "no data URL"),
        ({**IMPORTED, "nodes": {}}, "missing"),
        ({"nodes": {}}, "title"),
    ):
        load(page, broken)
        expect(page.get_by_role("status")).to_contain_text(words)
    expect(page.get_by_role("list", name="Conversations")).to_contain_text("No conversations yet")


# -- when something is wrong ---------------------------------------------------------------------------------------


def test_a_full_server_and_a_refused_image_in_words(start: Callable[..., Running], visit: Callable[..., Any]) -> None:
    running = start(max_running=1, max_waiting=1, max_image_pixels=100, max_output_tokens=100_000)
    page = visit(running)
    endless = {"max_tokens": 100_000, "temperature": 1.5, "stream": True}
    held = [running.chat(**endless)]
    next(iter(held[0]))
    handles = [running.scheduler.submit(Request([{"role": "user", "content": "hi"}]))]
    say(page, "hello")
    alert = page.get_by_role("alert")
    expect(alert.filter(has_text="full")).to_contain_text("The server is full")
    handles[0].cancel()
    held[0].close()
    wait_until(lambda: not running.scheduler.running)
    alert.get_by_role("button", name="Try again").click()
    answered(page)
    page.get_by_label("Image files").set_input_files(
        {"name": "big.png", "mimeType": "image/png", "buffer": png_bytes()}
    )
    say(page, "and this?")
    expect(alert.filter(has_text="image")).to_contain_text("The server refused an image")


def test_a_server_that_is_gone_and_one_that_wants_a_key(start: Callable[..., Running], visit: Callable[..., Any]) -> None:
    running = start(key_hashes={"alice": key_hash("alice's own key 1")})
    page = visit(running)
    alert = page.get_by_role("alert")
    expect(alert.filter(has_text="key")).to_contain_text("This server wants an API key")
    alert.get_by_role("button", name="Settings").click()
    page.get_by_label("API key").fill("alice's own key 1")
    page.get_by_label("API key").press("Tab")
    expect(page.locator("#model")).to_have_text("small")
    say(page, "hello")
    answered(page)
    running.stop()
    say(page, "still there?")
    expect(alert.filter(has_text="reached")).to_contain_text("your message is kept")
    expect(page.get_by_role("article", name="You").last).to_contain_text("still there?")


# -- for everyone --------------------------------------------------------------------------------------------------


def test_a_phone_has_no_sideways_scroll_and_all_of_it_has_names(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running, offer(LOG_READING, theme="dark"), width=360)
    load(page, IMPORTED)
    page.get_by_role("button", name="History", exact=True).click()
    page.get_by_role("button", name="Meters", exact=True).click()
    for name in (None, "Functions (1)", "Settings", "History"):
        if name:
            page.get_by_role("button", name=name, exact=True).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        nameless = page.evaluate(NAMELESS)
        assert not nameless
        if name:
            page.keyboard.press("Escape")
    page.screenshot(path="/tmp/pg/phone.png")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 29)"


NAMELESS = """[...document.querySelectorAll('button, input, select, textarea, summary')].filter(element =>
  element.checkVisibility() && !element.getAttribute('aria-label') && !element.labels?.length
  && !(element.matches('button, summary') && element.textContent.trim())).map(element => element.outerHTML)"""
