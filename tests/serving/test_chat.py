"""Chat completions through the real client: what it reads is what the engine answers, streamed or not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import openai
import pytest

from multimodal_ai.functions import FunctionRegistry
from multimodal_ai.functions.schema import FunctionSpec, validate_arguments
from multimodal_ai.inference import Request

from .conftest import GET_TIME, LOG_READING, Running, data_url

PICTURE = [{"type": "image_url", "image_url": {"url": data_url()}}, {"type": "text", "text": "Log this reading"}]


def joined(chunks: list[Any]) -> dict[str, Any]:
    """What a client makes of a stream's first choice."""
    content, calls, finish, extra = "", {}, None, {}
    for chunk in chunks:
        for choice in chunk.choices:
            if choice.index:
                continue
            content += choice.delta.content or ""
            finish = choice.finish_reason or finish
            extra.update(choice.model_extra or {})
            for call in choice.delta.tool_calls or ():
                known = calls.setdefault(call.index, {"name": "", "arguments": "", "extra": {}})
                known["extra"].update(call.model_extra or {})
                if call.function is not None:
                    known["name"] += call.function.name or ""
                    known["arguments"] += call.function.arguments or ""
    return {"content": content, "calls": [calls[index] for index in sorted(calls)], "finish": finish, "extra": extra}


def whole(completion: Any) -> dict[str, Any]:
    choice = completion.choices[0]
    calls = [
        {"name": call.function.name, "arguments": call.function.arguments, "extra": call.model_extra}
        for call in choice.message.tool_calls or ()
    ]
    decided = {"x_decision": choice.model_extra["x_decision"]}
    return {
        "content": choice.message.content or "",
        "calls": calls,
        "finish": choice.finish_reason,
        "extra": decided,
    }


def test_text_is_what_the_engine_says(running: Running) -> None:
    completion = running.chat("Which city?", max_tokens=20)
    expected = running.scheduler.submit(Request([{"role": "user", "content": "Which city?"}], max_tokens=20)).reply()
    assert completion.choices[0].message.content == expected.content
    assert completion.choices[0].finish_reason == expected.finish_reason
    assert completion.object == "chat.completion" and completion.model == "small"
    assert completion.usage.prompt_tokens == expected.usage["prompt_tokens"]
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


@pytest.mark.parametrize(
    "options",
    [
        {"content": "Which city?"},
        {"content": PICTURE, "tools": [LOG_READING, GET_TIME], "tool_choice": "required"},
        {"content": PICTURE, "tools": [LOG_READING], "parallel_tool_calls": False, "tool_choice": "required"},
        {"content": "hi", "tools": [LOG_READING], "tool_choice": "none", "stop": ["e", "a"]},
        {"content": "hi", "temperature": 1.3, "seed": 4, "top_p": 0.9},
    ],
)
def test_a_stream_adds_up_to_the_whole(running: Running, options: dict[str, Any]) -> None:
    final = whole(running.chat(max_tokens=120, **options))
    chunks = list(running.chat(max_tokens=120, stream=True, stream_options={"include_usage": True}, **options))
    assert joined(chunks) == final
    assert chunks[-1].usage.completion_tokens > 0 and not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1 and all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize(
    ("choice", "allowed"),
    [
        ("required", {"log_reading", "get_time"}),
        ({"type": "function", "function": {"name": "get_time"}}, {"get_time"}),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "log_reading"}}],
                },
            },
            {"log_reading"},
        ),
        ("none", set()),
    ],
)
def test_choices_are_obeyed_and_calls_validate(running: Running, choice: Any, allowed: set[str]) -> None:
    answer = running.chat(PICTURE, tools=[LOG_READING, GET_TIME], tool_choice=choice, max_tokens=200).choices[0]
    calls = answer.message.tool_calls or []
    assert bool(calls) == bool(allowed) == (answer.finish_reason == "tool_calls")
    specs = {spec.name: spec for spec in map(FunctionSpec.from_tool, (LOG_READING, GET_TIME))}
    for call in calls:
        assert call.function.name in allowed and call.id.startswith("call_")
        arguments = json.loads(call.function.arguments)
        assert not validate_arguments(specs[call.function.name], arguments)
        assert 0 <= call.x_confidence <= 1 and set(call.x_sources) == set(arguments)
    assert len({call.id for call in calls}) == len(calls)
    assert math.isclose(sum(answer.x_decision["trigger"].values()), 1, rel_tol=1e-4)
    assert {entry["name"] for entry in answer.x_decision["selection"]} == {"log_reading", "get_time"}


def test_a_conversation_goes_on_with_what_came_back(running: Running) -> None:
    first = running.chat(PICTURE, tools=[LOG_READING], tool_choice="required", max_tokens=200).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": '{"status":"ok"}'} for call in first.tool_calls]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": PICTURE}, first, *results]
    answer = running.client.chat.completions.create(
        model="small", messages=messages, tools=[LOG_READING], tool_choice="none", max_tokens=8
    )
    assert answer.choices[0].finish_reason in ("stop", "length") and answer.choices[0].message.content is not None


def test_answers_fit_their_format(running: Running) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    for wanted in ({"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}):
        choice = running.chat(response_format=wanted, max_tokens=200).choices[0]
        assert choice.finish_reason == "stop" and isinstance(json.loads(choice.message.content), dict)
    assert isinstance(json.loads(choice.message.content)["ok"], bool)


def test_choices_are_many_seeded_and_each_its_own(running: Running) -> None:
    def say(**options: Any) -> list[str]:
        many = running.chat(n=3, temperature=1.5, max_tokens=15, **options)
        assert [choice.index for choice in many.choices] == [0, 1, 2]
        assert many.usage.completion_tokens > 15
        return [choice.message.content for choice in many.choices]

    assert say(seed=1) == say(seed=1) and len(set(say(seed=1))) == 3 and say(seed=1) != say(seed=9)
    chunks = list(running.chat(n=3, temperature=1.5, max_tokens=15, seed=1, stream=True))
    streamed = ["", "", ""]
    for chunk in chunks:
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == say(seed=1)


def test_log_probabilities(running: Running) -> None:
    options: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "max_tokens": 12, "temperature": 0}
    choice = running.chat(**options).choices[0]
    scored = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in scored).decode("utf-8", "replace") == choice.message.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in scored)
    assert all(token.top_logprobs[0].token == token.token for token in scored), "greedy takes the likeliest"
    chunks = running.chat(stream=True, **options)
    streamed = [
        token for chunk in chunks for choice in chunk.choices if choice.logprobs for token in choice.logprobs.content
    ]
    assert [token.bytes for token in streamed] == [token.bytes for token in scored]
    assert running.chat(max_tokens=2).choices[0].logprobs is None


def test_the_client_s_own_stream_helper_reads_calls(running: Running) -> None:
    with running.client.chat.completions.stream(
        model="small",
        messages=[{"role": "user", "content": "Log 12 for the garden"}],
        tools=[LOG_READING],
        tool_choice="required",
        max_tokens=150,
    ) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls and json.loads(message.tool_calls[0].function.arguments)


def test_models_are_listed(running: Running) -> None:
    assert [model.id for model in running.client.models.list()] == ["small"]
    assert running.client.models.retrieve("small").x_embedding_width == 16
    with pytest.raises(openai.NotFoundError):
        running.client.models.retrieve("large")


def test_what_the_model_looked_at_comes_with_its_calls(running: Running) -> None:
    options: dict[str, Any] = {"tools": [LOG_READING], "tool_choice": "required", "max_tokens": 200}
    plain = running.chat(PICTURE, **options)
    options["extra_body"] = {"x_attention": True}
    completion = whole(running.chat(PICTURE, **options))
    assert completion == joined(list(running.chat(PICTURE, stream=True, **options)))
    assert completion["calls"]
    for call, without in zip(completion["calls"], whole(plain)["calls"], strict=True):
        assert call["arguments"] == without["arguments"] and "x_attention" not in without["extra"]
        looked = call["extra"]["x_attention"]
        assert set(looked) == set(json.loads(call["arguments"]))
        for seen in looked.values():
            (image,) = seen["images"]
            assert (image["message"], image["part"]) == (0, 0)
            assert len(image["weights"]) == image["rows"] * image["columns"]
            said = PICTURE[1]["text"]
            words = [said[word["start"] : word["end"]] for word in seen["words"]]
            assert all(word in said.split() for word in words)
            assert {(word["message"], word["part"]) for word in seen["words"]} <= {(0, 1)}


def test_a_run_on_the_server_tells_what_was_looked_at(start: Callable[..., Running]) -> None:
    registry = FunctionRegistry()

    @registry.function(read_only=True)
    def look(place: str, times: int) -> str:
        """Look somewhere."""
        return "nothing"

    running = start(registry)
    choice = {"type": "function", "function": {"name": "look"}}
    asked: dict[str, Any] = {"tool_choice": choice, "max_tokens": 100}
    asked["extra_body"] = {"x_execute": True, "x_attention": True}
    steps = running.chat("Look in the shed", **asked).x_steps
    assert steps
    told: dict[int, dict[str, Any]] = {}
    for chunk in running.chat("Look in the shed", stream=True, **asked):
        for choice in chunk.choices:
            step = (choice.model_extra or {}).get("x_step")
            if step and "x_attention" in step:
                told[step["call"]] = step["x_attention"]
    assert told == {number: step["x_attention"] for number, step in enumerate(steps, 1)}
    assert all(set(seen) <= {"place", "times"} for seen in told.values()) and set(told[1]) == {"place", "times"}
