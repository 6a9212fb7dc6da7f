"""What the model looked at: words and cells are the right ones, whatever stands around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from multimodal_ai.data.messages import Sample
from multimodal_ai.evaluation.common import to_request
from multimodal_ai.inference import Engine, Reply, Request
from multimodal_ai.inference.requests import Call, Seen

from ..serving.conftest import data_url

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "send",
        "description": "Send a note",
        "parameters": {
            "type": "object",
            "properties": {
                "to": {"type": "string", "description": "Who"},
                "day": {"type": "string", "format": "date"},
                "count": {"type": "integer"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "urgent": {"type": "boolean"},
            },
        },
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "get_time", "description": "The time of day"}}
PICTURES = [data_url(32, 16), data_url(32, 48, "blue")]


def asked(*messages: dict[str, Any], **options: Any) -> Request:
    return Request(messages=messages, tools=[TIME, TOOL], **options)


def user(text: str, *pictures: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def seen(engine: Engine, request: Request, **arguments: Any) -> dict[str, Seen]:
    calls = [Call("a", "get_time", {}, 1.0), Call("b", "send", arguments, 1.0)]
    given, sent = engine.attention(request, Reply(calls=calls))
    assert given.attention == {} and sent.attention is not None and list(sent.attention) == list(arguments)
    return sent.attention


def words(request: Request, view: Seen) -> list[str]:
    """The words themselves, read back through message, part and characters."""
    found = []
    for word in view.words:
        content = request.messages[word.message]["content"]
        text = content if isinstance(content, str) else content[word.part]["text"]
        found.append(text[word.start : word.end])
    return found


@pytest.fixture
def copying(engine: Engine) -> Callable[[bool], Engine]:
    """`copying(True)`: an engine whose pointer writes all that it can; False: nothing."""

    def set_gate(on: bool) -> Engine:
        with torch.no_grad():
            engine.model.head.copy_gate.weight.zero_()
            engine.model.head.copy_gate.bias.fill_(40.0 if on else -40.0)
        return engine

    return set_gate


def test_copied_values_lead_back_to_their_words(copying: Callable[[bool], Engine]) -> None:
    engine = copying(True)
    request = asked(
        {"role": "system", "content": "Be  brief.\n"},
        user("Hello", PICTURES[0]),
        {"role": "assistant", "content": "Yes?"},
        user("🙂  Ünder « 12,5 »: send 4711 notes to José  Núñez\u3000山田, tagged red and blue.", PICTURES[1]),
    )
    views = seen(engine, request, to="José", count=4711, tags=["red", "blue"], urgent=True)
    assert words(request, views["to"]) == ["José"] and words(request, views["tags"]) == ["red", "blue"]
    assert words(request, views["count"]) == ["4711"]
    for name in ("to", "count", "tags"):
        assert sum(word.weight for word in views[name].words) == pytest.approx(1, abs=0.01)
        assert {(word.message, word.part) for word in views[name].words} == {(3, 1)}
        assert not any(any(image.weights) for image in views[name].images)


def test_a_value_that_words_spell_out_leads_to_these(copying: Callable[[bool], Engine]) -> None:
    import datetime

    engine = copying(True)
    request = asked(user("Send it tomorrow to Ann"), today=datetime.date(2026, 3, 1))
    view = seen(engine, request, day="2026-03-02")["day"]
    assert words(request, view) == ["tomorrow"] and view.words[0].weight > 0.9


def test_cells_are_those_of_their_image(copying: Callable[[bool], Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last layer is made to look at one visual token, which is found by its state and not by its place."""
    engine = copying(False)
    request = asked(user("First", PICTURES[0]), {"role": "assistant", "content": "Yes?"}, user("Then", PICTURES[1]))
    source = engine.encoder.example(request).source
    grids = [image.grid for image in engine.encoder.example(request).images]
    assert [(rows // 2, columns // 2) for rows, columns in grids] == [(1, 2), (3, 2)]
    look = engine.model.decoder.look
    for position, image, token in source.slots:

        def one_place(x: Any, lengths: Any, context: Any, position: int = position) -> Any:
            states, looked = look(x, lengths, context)
            laid_out = context.keys.padded(context.rows)[0]
            there = (laid_out == context.states[0, position]).all(-1).float()
            assert there.sum() == 1
            return states, [looked[0], there.expand_as(looked[-1])]

        monkeypatch.setattr(engine.model.decoder, "look", one_place)
        views = seen(engine, request, count=7, to="x")
        for view in views.values():
            assert not view.words
            assert [(found.message, found.part, found.rows, found.columns) for found in view.images] == [
                (0, 0, 1, 2),
                (2, 0, 3, 2),
            ]
            lit = [
                (number, cell) for number, found in enumerate(view.images) for cell, w in enumerate(found.weights) if w
            ]
            assert lit == [(image, token)]


def test_turns_that_were_dropped_do_not_shift_the_others(copying: Callable[[bool], Engine]) -> None:
    engine = copying(True)
    engine.renderer.config = engine.renderer.config.model_copy(update={"long_history": "drop_oldest"})
    filler = [user("word " * 150), {"role": "assistant", "content": "Yes?"}] * 3
    request = asked({"role": "system", "content": "Be brief."}, *filler, user("Send 4711"))
    assert engine.encoder.example(request).source.dropped_turns
    (word,) = seen(engine, request, count=4711)["count"].words
    assert (word.message, word.part, word.start, word.end) == (7, 0, 5, 9)


def test_what_the_request_asks_for_is_what_the_engine_says_later(
    engine: Engine, samples: dict[str, list[Sample]]
) -> None:
    requests = [to_request(sample, tool_choice="required")[0] for sample in samples["digits"] if sample.specs][:6]
    plain = engine.generate(requests)
    found = engine.generate([replace(request, attention=True) for request in requests])
    assert any(reply.calls for reply in found)
    for request, without, reply in zip(requests, plain, found, strict=True):
        assert reply.token_ids == without.token_ids, "looking changes nothing"
        assert all(call.attention is None for call in without.calls)
        for call, again in zip(reply.calls, engine.attention(request, without), strict=True):
            assert call.attention is not None and again.attention is not None
            assert set(call.attention) == set(call.arguments)
            for name, view in call.attention.items():
                weights = [w.weight for w in view.words] + [w for image in view.images for w in image.weights]
                assert 0 <= sum(weights) <= 1.01
                later = again.attention[name]
                assert [w.weight for w in later.words] == pytest.approx([w.weight for w in view.words], abs=1e-3)
