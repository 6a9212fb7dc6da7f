"""What the model looked at, on the page: words and pictures light up for each argument, by pointer and by keyboard."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..conftest import LOG_READING, Running, data_url
from .visitor import IMPORTED, answered, bodies, expect, load, offer, png_bytes, say

LIT = "level => [...(CSS.highlights.get(level) ?? [])].map(String)"
ALPHAS = """canvas => {
  const {width, height} = canvas;
  const pixels = canvas.getContext('2d').getImageData(0, 0, width, height).data;
  return [height, width, [...pixels.filter((_, at) => at % 4 === 3)]];
}"""


def looked() -> dict[str, Any]:
    """A conversation about a picture, with what the model looked at."""
    conversation = copy.deepcopy(IMPORTED)
    conversation["nodes"]["u"]["images"] = [data_url(), data_url(colour="blue")]
    words = [("Garden", 0.6), ("the", 0.3), ("Log", 0.1)]
    text = conversation["nodes"]["u"]["text"]
    places = [(text.index(word), text.index(word) + len(word), weight) for word, weight in words]
    conversation["nodes"]["a"]["calls"][0]["attention"] = {
        "meter": {
            "words": [{"turn": 0, "call": None, "start": a, "end": b, "weight": w} for a, b, w in places],
            "images": [{"turn": 0, "image": 0, "rows": 1, "columns": 2, "weights": [0.01, 0]}],
        },
        "value": {
            "words": [],
            "images": [
                {"turn": 0, "image": 0, "rows": 1, "columns": 2, "weights": [0.05, 0]},
                {"turn": 0, "image": 1, "rows": 2, "columns": 2, "weights": [0, 0, 0.8, 0.1]},
            ],
        },
    }
    return conversation


def opened(visit: Callable[..., Any], running: Running) -> Any:
    page = visit(running, offer(LOG_READING))
    load(page, looked())
    page.get_by_role("button", name="Meters", exact=True).click()
    return page


def test_words_light_up_by_their_weight(running: Running, visit: Callable[..., Any]) -> None:
    page = opened(visit, running)
    source = page.get_by_role("button", name="meter: from your words")
    source.hover()
    assert page.evaluate(LIT, "provenance") == ["Garden", "the"] and page.evaluate(LIT, "provenance-weak") == ["Log"]
    expect(page.locator(".heat")).to_have_count(0)  # a hundredth is no picture
    page.mouse.move(0, 0)
    assert page.evaluate(LIT, "provenance") == page.evaluate(LIT, "provenance-weak") == []
    source.press("Enter")
    expect(page.get_by_role("status").last).to_contain_text("meter: its words are lit up")
    assert page.evaluate(LIT, "provenance") == ["Garden", "the"]


def test_a_heat_map_lies_over_the_picture(running: Running, visit: Callable[..., Any]) -> None:
    page = opened(visit, running)
    source = page.get_by_role("button", name="value: looked at image 2, 95%")
    source.hover()
    pictures = page.get_by_role("list", name="Images")
    heat = pictures.locator(".heat")
    expect(heat).to_have_count(2)
    assert heat.last.evaluate(ALPHAS) == [2, 2, [0, 0, 150, 19]]
    over, under = heat.last.bounding_box(), pictures.get_by_role("img", name="image 2").bounding_box()
    assert all(abs(over[side] - under[side]) < 1 for side in over), "the map covers the picture and no more"
    page.mouse.move(0, 0)
    expect(heat).to_have_count(0)
    source.focus()
    expect(heat).to_have_count(2)
    source.press("Enter")
    dialog = page.get_by_role("dialog", name="Picture")
    expect(dialog.get_by_role("radio", name="log_reading, value: 12")).to_be_checked()
    expect(dialog.get_by_role("status")).to_contain_text("row 2 of 2, column 1 of 2. 90%")
    assert dialog.locator(".heat").evaluate(ALPHAS)[2] == [0, 0, 150, 19]
    over, under = dialog.locator(".heat").bounding_box(), dialog.get_by_role("img").bounding_box()
    assert all(abs(over[side] - under[side]) < 1 for side in over)
    assert abs(under["width"] / under["height"] - 24 / 16) < 0.05, "the picture keeps its shape"
    page.keyboard.press("ArrowUp")  # to: nothing
    expect(dialog.locator(".heat")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    pictures.get_by_role("button", name="Show image 1").click()
    expect(dialog.get_by_role("img", name="image 1")).to_be_visible()
    expect(dialog.get_by_role("radio")).to_have_count(0)  # a twentieth is not worth a map
    dialog.get_by_role("button", name="Close").click()


def test_what_the_server_says_becomes_places_on_the_page(
    running: Running, visit: Callable[..., Any], tmp_path: Path
) -> None:
    page = visit(running, offer(LOG_READING, toolChoice="log_reading", system="Be brief."))
    sent = bodies(page)
    page.get_by_label("Image files").set_input_files(
        [{"name": "a.png", "mimeType": "image/png", "buffer": png_bytes()}]
    )
    say(page, "🙂 Log 12 for the garden")
    answered(page)
    assert sent[0]["x_attention"] is True
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    download.value.save_as(tmp_path / "c.json")
    (conversation,) = json.loads((tmp_path / "c.json").read_text())["conversations"]
    (call, *_) = next(node["calls"] for node in conversation["nodes"].values() if node.get("calls"))
    asked = {**sent[0], "stream": False, "stream_options": None}
    answer = page.request.post(f"{running.url}/v1/chat/completions", data=asked).json()
    given = answer["choices"][0]["message"]["tool_calls"][0]["x_attention"]
    assert set(call["attention"]) == {"meter", "value"} == set(given)
    text = sent[0]["messages"][1]["content"][1]["text"].encode("utf-16-le")
    for name, view in call["attention"].items():
        (image,) = view["images"]
        assert image["weights"] == given[name]["images"][0]["weights"] and (image["turn"], image["image"]) == (0, 0)
        said = [word for word in given[name]["words"] if word["message"] == 1]
        plain = sent[0]["messages"][1]["content"][1]["text"]
        words = [text[2 * word["start"] : 2 * word["end"]].decode("utf-16-le") for word in view["words"]]
        assert words == [plain[word["start"] : word["end"]] for word in said]


def test_results_and_characters_of_two_units_are_counted_rightly(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running)
    conversation = looked()
    conversation["nodes"]["u"]["text"] = "🙂🙂 Garden"
    conversation["nodes"]["a"]["calls"][0]["result"] = {"status": "ok", "content": "é🙂 done"}
    given = {
        "meter": {
            "words": [
                {"message": 0, "part": 0, "start": 0, "end": 2, "weight": 0.1},
                {"message": 1, "part": 2, "start": 3, "end": 9, "weight": 0.5},
                {"message": 3, "part": 0, "start": 3, "end": 7, "weight": 0.2},
                {"message": 9, "part": 0, "start": 0, "end": 1, "weight": 0.2},
            ],
            "images": [{"message": 1, "part": 1, "rows": 1, "columns": 1, "weights": [0]}],
        }
    }
    script = """async ([conversation, given]) =>
      (await import('/page/attention.js')).attentionPlaces(given, conversation, 'a', 'Be brief.')"""
    found = page.evaluate(script, [conversation, given])["meter"]
    assert [(word["turn"], word["call"], word["start"], word["end"]) for word in found["words"]] == [
        (0, None, 5, 11),
        (1, 0, 4, 8),
    ]
    assert [(image["turn"], image["image"]) for image in found["images"]] == [(0, 1)]


def test_it_is_asked_for_only_where_it_is_wanted(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running, offer(LOG_READING, toolChoice="none"))
    sent = bodies(page)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Show what the model looked at").uncheck()
    say(page, "Hello")
    answered(page)
    assert "x_attention" not in sent[0]
    page.reload()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Show what the model looked at")).not_to_be_checked()


def test_attention_of_another_form_is_left_out_of_what_is_imported(running: Running, visit: Callable[..., Any]) -> None:
    page = visit(running)
    for broken in ({"meter": {"words": 3}}, {"meter": {"words": [], "images": [{"turn": 0, "weights": [2]}]}}, [1]):
        conversation = looked() | {"title": "Odd"}
        conversation["nodes"]["a"]["calls"][0]["attention"] = broken
        load(page, conversation)
        page.get_by_role("button", name="Odd", exact=True).first.click()
        card = page.get_by_role("region", name="Call of log_reading")
        expect(card.get_by_role("button", name="meter: from your words, 100% copied")).to_be_visible()
