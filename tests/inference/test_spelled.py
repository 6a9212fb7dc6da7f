"""A pointer that stands on words writes the value they spell out, where the parameter asks for one."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest
import torch

from multimodal_ai.inference import Engine, Reply, Request
from multimodal_ai.inference.scheduler import Scheduler

TEXT = "Wake me tomorrow at half past eleven in the morning and pay five thousand dollars"
DAY = datetime.date(2026, 11, 25)


def request(schema: dict[str, Any], messages: list[dict[str, Any]]) -> Request:
    tool = {"name": "set", "parameters": {"properties": {"value": schema}, "required": ["value"]}}
    return Request(messages, [tool], tool_choice="required", parallel_tool_calls=False, max_tokens=90, today=DAY)


def look_at(engine: Engine, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """From now on the engine's pointer is sure, and looks at one token of the source wherever a value is written."""

    def sure(states: Any, parameter: Any, keys: Any, copyable: Any, continues: Any) -> tuple[Any, Any]:
        attention = torch.full(copyable.shape, -30.0)
        attention[:, place] = 0.0
        return torch.full((len(states),), 30.0), attention

    monkeypatch.setattr(engine.model.head, "copy_scores", sure)


def place_of(engine: Engine, asked: Request, word: str) -> int:
    """Where in the source a word begins."""
    source, ids = engine.encoder.example(asked).source.ids, engine.tokenizer.encode(word)
    [place] = [at for at in range(len(source)) if source[at : at + len(ids)] == ids]
    return place


def pointed(engine: Engine, monkeypatch: pytest.MonkeyPatch, asked: Request, word: str) -> Reply:
    """What the engine answers when its pointer looks at one word."""
    look_at(engine, monkeypatch, place_of(engine, asked, word))
    return engine.generate([asked])[0]


@pytest.mark.parametrize(
    ("schema", "word", "value"),
    [
        ({"type": "string", "format": "date"}, "tomorrow", "2026-11-26"),
        ({"description": "as HH:MM", "pattern": "^[0-9]{2}:[0-9]{2}$", "type": "string"}, "eleven", "11:30"),
        ({"description": "MM/DD/YYYY", "pattern": "^[/0-9]{10}$", "type": "string"}, "tomorrow", "11/26/2026"),
    ],
)
def test_words_become_the_value(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any], word: str, value: str
) -> None:
    [call] = pointed(engine, monkeypatch, request(schema, [{"role": "user", "content": TEXT}]), word).calls
    assert call.arguments == {"value": value}
    assert call.sources["value"].origin == "user" and call.sources["value"].copied > 0.5


@pytest.mark.parametrize("kind", ["integer", "number"])
def test_words_become_the_number(engine: Engine, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What the untrained model writes behind it is its own affair."""
    for word in ("five", "thousand"):
        asked = request({"type": kind, "minimum": 0}, [{"role": "user", "content": TEXT}])
        [call] = pointed(engine, monkeypatch, asked, word).calls
        assert str(call.arguments["value"]).startswith("5000")


def test_a_value_out_of_a_result_is_marked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
    messages = [{"role": "user", "content": "Read it"}, {"role": "assistant", "tool_calls": [call]}]
    messages.append({"role": "tool", "tool_call_id": "1", "content": TEXT})
    asked = request({"type": "string", "format": "date"}, messages)
    [made] = pointed(engine, monkeypatch, asked, "tomorrow").calls
    assert made.arguments == {"value": "2026-11-26"} and made.sources["value"].origin == "function_result"


def test_a_plain_string_is_copied_as_it_stands(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request({"type": "string", "maxLength": 20}, [{"role": "user", "content": TEXT}])
    [call] = pointed(engine, monkeypatch, asked, "eleven").calls
    assert not any(character.isdigit() for character in call.arguments["value"])
    assert engine.tokenizer.decode(engine.tokenizer.encode("eleven")[:1]) in call.arguments["value"]


def test_days_are_counted_from_the_day_of_the_request(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request({"type": "string", "format": "date"}, [{"role": "user", "content": "Do it tomorrow"}])
    for asked.today in (DAY, None, DAY.replace(year=2031)):
        day = (asked.today or datetime.date.today()) + datetime.timedelta(days=1)
        assert pointed(engine, monkeypatch, asked, "tomorrow").calls[0].arguments == {"value": day.isoformat()}


def test_a_batch_that_requests_join_and_leave_spells_the_same_values(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other forms, days and lengths beside each other; the same text on another day, though its encoding is kept."""
    day, number = {"type": "string", "format": "date"}, {"type": "integer", "minimum": 1000, "maximum": 9999}
    clock = {"description": "as HH:MM", "pattern": "^[0-9]{2}:[0-9]{2}$", "type": "string"}
    later = DAY.replace(year=2031)
    wanted = [
        ("tomorrow if you can, and not before noon of that very day", day, DAY, "2026-11-26"),
        ("half past eleven", clock, DAY, "11:30"),
        ("tomorrow if you can, and not before noon of that very day", day, later, "2031-11-26"),
        ("five thousand dollars for the garden", number, DAY, 5000),
        ("tomorrow", day, later, "2031-11-26"),
        ("quarter to nine, or whenever the others have come", clock, later, "08:45"),
        ("tomorrow", day, DAY, "2026-11-26"),
    ]
    requests = [
        replace(request(schema, [{"role": "user", "content": text}]), today=today) for text, schema, today, _ in wanted
    ]
    [place] = {place_of(engine, asked, text.split()[0]) for asked, (text, *_) in zip(requests, wanted, strict=True)}
    look_at(engine, monkeypatch, place)
    values = [[{"value": value}] for *_, value in wanted]

    def made(reply: Reply) -> list[dict[str, Any]]:
        return [call.arguments for call in reply.calls]

    assert [made(engine.generate([asked])[0]) for asked in requests] == values
    assert [made(reply) for reply in engine.generate(requests)] == values
    scheduler = Scheduler(engine, max_rows=3, admitted_at_once=1)
    try:
        assert [made(handle.reply()) for handle in [scheduler.submit(asked) for asked in requests]] == values
    finally:
        scheduler.close()
