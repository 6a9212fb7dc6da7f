"""The page in a real browser against the real server: talking, images, history, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from multimodal_ai.inference import Request
from multimodal_ai.serving.config import key_hash

from ..conftest import LOG_READING, Running, data_url, wait_until
from .visitor import IMPORTED, answered, bodies, expect, load, offer, png_bytes, say


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
    page.get_by_role("button", name="Which city?", exact=True).click()
    stored = page.evaluate(
        "(async () => { const {loadAll} = await import('/page/store.js'); return await loadAll(); })()"
    )
    texts = [node["text"] for node in stored[0]["nodes"].values() if node["role"] == "assistant"]
    assert texts == [said.choices[0].message.content]
    expect(page.get_by_role("article", name="Assistant")).to_have_count(1)


def test_stop_frees_the_place(start: Callable[..., Running], visit: Callable[..., Any]) -> None:
    running = start(max_running=1, max_output_tokens=100_000)
    page = visit(running, {"maxTokens": "100000"})
    say(page, "hello")
    wait_until(lambda: running.scheduler.running == 1)
    page.get_by_role("button", name="Stop").click()
    wait_until(lambda: not running.scheduler.running, 20)
    wait_until(lambda: b'replies_total{outcome="cancelled"} 1.0' in running.app.state.metrics.text())
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


def test_images_are_chosen_pasted_dropped_and_taken(
    running: Running, visit: Callable[..., Any], tmp_path: Path
) -> None:
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


def test_a_server_that_is_gone_and_one_that_wants_a_key(
    start: Callable[..., Running], visit: Callable[..., Any]
) -> None:
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
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 29)"


NAMELESS = """[...document.querySelectorAll('button, input, select, textarea, summary')].filter(element =>
  element.checkVisibility() && !element.getAttribute('aria-label') && !element.labels?.length
  && !(element.matches('button, summary') && element.textContent.trim())).map(element => element.outerHTML)"""
