"""The Responses API through the real client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from .conftest import LOG_READING, Running, data_url

FUNCTION = {"type": "function", **LOG_READING["function"]}  # type: ignore[dict-item]


def ask(running: Running, given: Any = "Which city?", **options: Any) -> Any:
    return running.client.responses.create(model="small", input=given, **options)


def test_text_is_what_chat_says(running: Running) -> None:
    response = ask(running, instructions="Be brief.", max_output_tokens=16)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which city?"}]
    chat = running.client.chat.completions.create(model="small", messages=messages, max_tokens=16)
    assert response.output_text == chat.choices[0].message.content
    assert response.usage.output_tokens == chat.usage.completion_tokens
    cut = chat.choices[0].finish_reason == "length"
    assert response.status == ("incomplete" if cut else "completed")


def test_an_image_becomes_a_call_and_its_result_is_read(running: Running) -> None:
    given: list[Any] = [
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": data_url(), "detail": "auto"},
                {"type": "input_text", "text": "Log this reading"},
            ],
        }
    ]
    response = ask(running, given, tools=[FUNCTION], tool_choice="required", max_output_tokens=200)
    calls = [item for item in response.output if item.type == "function_call"]
    assert calls and all(set(json.loads(call.arguments)) == {"meter", "value"} for call in calls)
    assert 0 <= calls[0].x_confidence <= 1 and response.x_decision["selection"][0]["name"] == "log_reading"
    given += response.output
    given += [{"type": "function_call_output", "call_id": call.call_id, "output": "done"} for call in calls]
    final = ask(running, given, tools=[FUNCTION], tool_choice="none", max_output_tokens=8)
    assert [item.type for item in final.output] == ["message"]


@pytest.mark.parametrize("choice", ["required", "none", {"type": "function", "name": "log_reading"}])
def test_events_add_up_to_the_response(running: Running, choice: Any) -> None:
    options: dict[str, Any] = {"tools": [FUNCTION], "tool_choice": choice, "max_output_tokens": 200}
    events = list(ask(running, stream=True, **options))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type in ("response.completed", "response.incomplete")
    final = events[-1].response
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == final.output_text
    for index, item in enumerate(final.output):
        if item.type == "function_call":
            kind = "response.function_call_arguments.delta"
            pieces = [event.delta for event in events if event.type == kind and event.item_id == item.id]
            assert "".join(pieces) == item.arguments
        assert [e.item.id for e in events if e.type == "response.output_item.done" and e.output_index == index] == [
            item.id
        ]

    def told(response: Any) -> Any:
        return [
            (item.type, item.arguments if item.type == "function_call" else item.content[0].text)
            for item in response.output
        ]

    assert told(final) == told(ask(running, **options))


def test_text_formats_and_log_probabilities(running: Running) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    wanted: Any = {"format": {"type": "json_schema", "name": "a", "schema": schema}}
    response = ask(running, text=wanted, max_output_tokens=100, include=["message.output_text.logprobs"])
    assert isinstance(json.loads(response.output_text)["ok"], bool)
    scored = response.output[0].content[0].logprobs
    assert "".join(token.token for token in scored) == response.output_text


def test_strings_can_be_held_to_the_conversation(running: Running) -> None:
    tool = {
        "type": "function",
        "name": "note",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    }
    options: dict[str, Any] = {"tools": [tool], "tool_choice": "required", "max_output_tokens": 200}
    said = "buy seven apples"
    response = ask(running, said, extra_body={"x_strings": "copied"}, **options)
    calls = [json.loads(item.arguments) for item in response.output if item.type == "function_call"]
    assert calls and all(call["text"] in said for call in calls)
    free = [json.loads(item.arguments) for item in ask(running, said, **options).output if item.type == "function_call"]
    assert not all(call["text"] in said for call in free), "else the test says nothing"


@pytest.mark.parametrize(
    "options",
    [
        {"previous_response_id": "resp_1"},
        {"background": True},
        {"tools": [{"type": "web_search"}]},
        {"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]},
        {"input": []},
    ],
)
def test_what_it_cannot_do_is_refused(running: Running, options: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(running, **{"given": options.pop("input", "hi"), **options})
    assert caught.value.body["message"]  # type: ignore[index]
