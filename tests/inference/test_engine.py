"""The engine with a model that was never trained: whatever it says, what leaves is well-formed."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from multimodal_ai.data.messages import Sample
from multimodal_ai.evaluation.common import to_request
from multimodal_ai.functions.lexical import lexical_scores
from multimodal_ai.functions.schema import FunctionSpec, validate_arguments
from multimodal_ai.inference import Engine, Reply, Request
from multimodal_ai.inference.decoding import decoding_backend
from multimodal_ai.inference.sampling import Sampler, sample
from multimodal_ai.inference.steering import without_absent


@pytest.fixture(params=["torch", "openvino"])
def engine(engine: Engine, request: pytest.FixtureRequest) -> Engine:
    """Whatever is promised here holds whoever runs the decoder."""
    if request.param == "openvino":
        pytest.importorskip("openvino")
    engine.backend = decoding_backend(engine.model, request.param)
    return engine


@pytest.fixture
def requests(samples: dict[str, list[Sample]]) -> list[Request]:
    """Real requests with images, functions, histories and plain questions."""
    chosen = samples["digits"][:12] + samples["function_cards"][:12] + samples["easy_vqa"][:4]
    return [to_request(sample, max_tokens=150)[0] for sample in chosen]


def brief(reply: Reply) -> dict[str, Any]:
    return {
        "content": reply.content,
        "calls": [(call.name, call.arguments) for call in reply.calls],
        "finish": reply.finish_reason,
        "ids": reply.token_ids,
    }


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_every_call_validates_and_the_finish_reason_agrees(
    engine: Engine, requests: list[Request], temperature: float
) -> None:
    asked = [r for r in requests if r.tools]
    for number, request in enumerate(asked):
        request.tool_choice, request.temperature, request.seed = "required", temperature, number
    replies = engine.generate(asked)
    finished = 0
    for request, reply in zip(asked, replies, strict=True):
        specs = {FunctionSpec.from_tool(tool).name: FunctionSpec.from_tool(tool) for tool in request.tools}
        for call in reply.calls:
            assert not validate_arguments(specs[call.name], call.arguments)
            assert 0 <= call.confidence <= 1 and set(call.sources) == set(call.arguments)
        assert (reply.finish_reason == "tool_calls") == bool(reply.calls)
        finished += bool(reply.calls)
    assert finished > len(asked) // 2


def test_greedy_does_not_depend_on_the_batch(engine: Engine, requests: list[Request]) -> None:
    together = engine.generate(requests[:10])
    alone = [engine.generate([request])[0] for request in requests[:10]]
    assert [brief(reply) for reply in together] == [brief(reply) for reply in alone]


def test_a_stream_adds_up_to_the_reply(engine: Engine, requests: list[Request]) -> None:
    for request in requests[:8]:
        request.tool_choice = "required" if request.tools else "auto"
        deltas = list(engine.stream(request))
        reply = deltas[-1].reply
        assert reply is not None and brief(reply) == brief(engine.generate([request])[0])
        assert "".join(delta.text for delta in deltas if delta.kind == "text") == reply.content
        for index, call in enumerate(reply.calls):
            pieces = "".join(d.text for d in deltas if d.kind == "arguments" and d.index == index)
            assert json.loads(pieces) == call.arguments
        assert [delta.call for delta in deltas if delta.kind == "call_end"] == reply.calls


def test_choices_are_obeyed(engine: Engine, samples: dict[str, list[Sample]]) -> None:
    sample = next(s for s in samples["function_cards"] if len(s.specs) >= 3)
    request, _ = to_request(sample, max_tokens=120)
    request.tool_choice = "none"
    assert not engine.generate([request])[0].calls
    request.tool_choice = {"name": sample.specs[2].name}
    calls = engine.generate([request])[0].calls
    assert [call.name for call in calls] in ([sample.specs[2].name], [])
    request.tool_choice, request.call_threshold = "auto", 0.0
    ids = engine.generate([request])[0].token_ids
    assert ids[0] == engine.tokenizer.special.call
    request.call_threshold = 1.0
    assert engine.tokenizer.special.call not in engine.generate([request])[0].token_ids


def test_a_function_with_side_effects_may_need_more(engine: Engine) -> None:
    tools = [{"name": name, "x-side-effect": name == "delete"} for name in ("look", "delete")]
    messages = [{"role": "user", "content": "delete it, delete it all"}]
    request = Request(messages, tools, call_threshold=0.0, side_effect_threshold=0.0, max_tokens=40)
    reply = engine.generate([request])[0]
    likeliest = reply.selection[0][0]
    assert reply.calls
    request.side_effect_threshold = 1.0
    calls = engine.generate([request])[0].calls
    assert {call.name for call in calls} == (set() if likeliest == "delete" else {"look"})
    request.call_threshold, request.side_effect_threshold = 1.0, 0.0
    calls = engine.generate([request])[0].calls
    assert {call.name for call in calls} == (set() if likeliest == "look" else {"delete"})


def test_each_argument_has_a_confidence(engine: Engine) -> None:
    """Over the tokens that were left open: sampling at a high temperature is less sure than one legal value."""
    place = {"type": "string", "minLength": 4, "maxLength": 8}
    parameters = {"properties": {"fixed": {"const": "x"}, "place": place}, "required": ["fixed", "place"]}
    tool = {"name": "go", "parameters": parameters}
    request = Request([{"role": "user", "content": "go"}], [tool], tool_choice="required", parallel_tool_calls=False)
    [call] = engine.generate([request])[0].calls
    assert call.sources["fixed"].confidence == 1.0 and 0 < call.sources["place"].confidence < 1.0


def test_the_trigger_and_the_selection_are_distributions(engine: Engine, requests: list[Request]) -> None:
    reply = engine.generate([next(r for r in requests if len(r.tools) > 1)])[0]
    assert reply.trigger is not None and sum(reply.trigger.values()) == pytest.approx(1)
    assert sum(share for _, share in reply.selection) == pytest.approx(1)
    assert reply.selection == sorted(reply.selection, key=lambda pair: -pair[1])


def test_the_temperature_flattens_the_trigger_and_keeps_its_choice(engine: Engine, requests: list[Request]) -> None:
    request = next(r for r in requests if r.tools)
    plain = engine.generate([request])[0].trigger
    engine.processing = engine.processing.model_copy(update={"trigger_temperature": 5.0})
    flat = engine.generate([request])[0].trigger
    assert plain is not None and flat is not None
    assert sorted(plain, key=plain.__getitem__) == sorted(flat, key=flat.__getitem__)
    assert max(flat.values()) < max(plain.values())


def test_limits_stops_and_log_probabilities(engine: Engine) -> None:
    request = Request([{"role": "user", "content": "hello"}], max_tokens=12, temperature=1, seed=1, logprobs=True)
    reply = engine.generate([request])[0]
    assert len(reply.token_ids) <= 12 and len(reply.logprobs) == len(reply.token_ids)
    assert all(value <= 0 for value in reply.logprobs) and reply.usage["completion_tokens"] == len(reply.token_ids)
    piece = reply.content[2:4]
    request.stop = (piece,)
    stopped = engine.generate([request])[0]
    assert stopped.finish_reason == "stop" and stopped.content == reply.content[: reply.content.index(piece)]


def test_seeds_repeat_and_differ(engine: Engine) -> None:
    def say(seed: int) -> str:
        return engine.generate([Request([{"role": "user", "content": "hi"}], max_tokens=20, temperature=1, seed=seed)])[
            0
        ].content

    assert say(1) == say(1)
    assert len({say(seed) for seed in range(4)}) > 1


def test_forced_tokens_take_no_step_of_the_model(engine: Engine, requests: list[Request]) -> None:
    request = next(r for r in requests if len(r.tools) == 1)
    request.tool_choice = "required"
    steps = 0
    step = engine.model.decoder.step

    def counted(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(*arguments)

    engine.model.decoder.step = counted  # type: ignore[method-assign]
    reply = engine.generate([request])[0]
    assert reply.usage["forced_tokens"] > 5
    assert steps <= reply.usage["completion_tokens"] - reply.usage["forced_tokens"] + 1


def test_scores_are_log_probabilities_of_the_reply(engine: Engine) -> None:
    request = Request([{"role": "user", "content": "hi"}], max_tokens=8, logprobs=True)
    reply = engine.generate([request])[0]
    if reply.finish_reason == "stop":
        assert engine.score([request], [reply.content])[0] == pytest.approx(sum(reply.logprobs), rel=1e-3)
    short, long = engine.score([request, Request([])], ["a", "a longer reply than that"])
    assert long < short < 0


def test_embeddings_are_of_length_one_and_keep_their_order(engine: Engine, samples: dict[str, list[Sample]]) -> None:
    images = [sample.images[0] for sample in samples["easy_vqa"][:3]]
    vectors = engine.embed_images([images[0], images[1], images[0], images[2]])
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(vectors[0], vectors[2])
    torch.testing.assert_close(vectors[1], engine.embed_images([images[1]])[0], rtol=1e-4, atol=1e-4)
    words = engine.embed_texts(["a red circle", "a blue square", "a red circle"])
    assert torch.equal(words[0], words[2]) and not torch.allclose(words[0], words[1])


def test_wrong_settings_are_refused() -> None:
    for setting in ({"temperature": -1}, {"top_p": 0}, {"max_tokens": 0}, {"top_k": -1}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            Request([], **setting)  # type: ignore[arg-type]


def test_truncation_keeps_the_best_tokens() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))

    def drawn(**settings: Any) -> set[int]:
        sampler = Sampler(Request([], temperature=1, seed=0, **settings))
        return {sample(logits, [sampler])[0][0] for _ in range(300)}

    assert drawn() == {0, 1, 2, 3} and drawn(top_k=2) == {0, 1}
    assert drawn(top_p=0.79) == {0, 1} and drawn(top_p=0.81) == {0, 1, 2} and drawn(top_p=1e-6) == {0}


def test_sampling_follows_the_distribution() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    sampler = Sampler(Request([], temperature=1, seed=0))
    counts = np.bincount([sample(logits, [sampler])[0][0] for _ in range(4000)]) / 4000
    assert np.abs(counts - [0.5, 0.3, 0.2]).max() < 0.03


def test_absent_optional_parameters_leave_the_grammar() -> None:
    properties = {name: {"type": "string"} for name in ("a", "b", "c")}
    spec = FunctionSpec("f", "", {"type": "object", "properties": properties, "required": ["a"]})
    assert without_absent(spec, [0.1, 0.9, 0.2]).parameter_names == ("a", "b")
    assert without_absent(spec, [0.1, 0.9, 0.9]) is spec


@pytest.mark.parametrize("max_tokens", [90, 150])
def test_a_call_is_finished_before_the_limit(engine: Engine, requests: list[Request], max_tokens: int) -> None:
    asked = [r for r in requests if r.tools]
    for number, request in enumerate(asked):
        request.tool_choice, request.temperature, request.seed = "required", 1.0, number
        request.max_tokens, request.parallel_tool_calls = max_tokens, False
    replies = engine.generate(asked)
    cut = [reply for reply in replies if reply.finish_reason == "length"]
    assert len(cut) <= len(replies) // 10  # many required strings can be more than the limit holds


ADD = {
    "type": "function",
    "function": {
        "name": "log_reading",
        "description": "Log a reading",
        "parameters": {"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]},
    },
}


def test_text_copies_from_a_result_and_only_then(engine: Engine) -> None:
    asked = {"role": "user", "content": "Log 3772 for Zoltan"}
    call = {"id": "call_1", "type": "function", "function": {"name": "log_reading", "arguments": '{"value": 3772}'}}
    history = [
        asked,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "name": "log_reading", "content": '{"status": "ok", "value": 3772}'},
    ]
    bias = engine.model.head.copy_gate.bias
    before = bias.detach().clone()

    def tokens(messages: list[dict[str, Any]]) -> set[int]:
        request = Request(messages, tools=[ADD], tool_choice="none", max_tokens=12)
        return set(engine.generate([request])[0].token_ids)

    source = engine.encoder.example(Request(history, tools=[ADD])).source
    copyable = set(source.ids)
    with torch.no_grad():
        bias.fill_(60.0)  # the gate says: copy
    try:
        assert tokens(history) <= copyable
        assert not tokens([asked]) <= copyable
    finally:
        with torch.no_grad():
            bias.copy_(before)


def test_queries_and_keys_give_the_selection_of_the_head(engine: Engine) -> None:
    specs = [
        FunctionSpec("get_weather", "Weather of a city"),
        FunctionSpec("log_reading", "Store a reading of a meter"),
    ]
    messages = [{"role": "user", "content": "Store the reading of the meter"}]
    request = Request(messages, specs, max_tokens=1)
    chosen = dict(engine.generate([request])[0].selection)
    keys = engine.function_keys(specs)
    queries = engine.selection_queries([request, Request([{"role": "user", "content": "Hello"}])])
    assert keys.norm(dim=-1).tolist() == pytest.approx([1, 1]) == queries.norm(dim=-1).tolist()
    scale, weight = engine.selection_weights
    lexical = lexical_scores("Store the reading of the meter", specs)
    first, second = (scale * float(queries[0] @ key) + weight * score for key, score in zip(keys, lexical, strict=True))
    assert math.log(chosen["get_weather"] / chosen["log_reading"]) == pytest.approx(first - second, abs=1e-3)
    assert torch.allclose(engine.function_keys(specs[1:])[0], keys[1], atol=1e-5)  # alone or with others
    assert len(engine.function_keys([])) == len(engine.selection_queries([])) == 0


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "array", "items": {"type": "string"}}},
    "required": ["city", "days"],
}


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
@pytest.mark.parametrize("max_tokens", [40, 120])
def test_an_answer_fits_its_response_format_and_ends_in_time(engine: Engine, kind: str, max_tokens: int) -> None:
    wanted = {"type": kind, "json_schema": {"name": "a", "schema": SCHEMA}}
    asked = [
        Request(
            [{"role": "user", "content": "Which city, which days?"}],
            tools=[ADD] if seed % 2 else [],
            tool_choice="auto" if not seed % 2 else "none",
            response_format=wanted,
            max_tokens=max_tokens,
            temperature=1.0,
            seed=seed,
        )
        for seed in range(8)
    ]
    replies = engine.generate(asked)
    for reply in replies:
        assert (reply.finish_reason == "stop") == (not reply.format_errors), reply
        if reply.finish_reason == "stop":
            assert isinstance(json.loads(reply.content), dict)
    assert sum(reply.finish_reason == "stop" for reply in replies) >= 6
    asked[1].call_threshold, asked[1].tool_choice, asked[1].max_tokens = 0.0, "auto", 60
    assert {call.name for call in engine.generate([asked[1]])[0].calls} == {"log_reading"}, "calls are still possible"


def test_only_allowed_functions_are_called(engine: Engine, samples: dict[str, list[Sample]]) -> None:
    sample = next(s for s in samples["function_cards"] if len(s.specs) >= 3)
    tools = [{"type": "function", "function": {"name": spec.name}} for spec in sample.specs[1:3]]
    request, _ = to_request(sample, max_tokens=120)
    request.temperature, request.seed = 1.5, 0
    for mode in ("required", "auto"):
        request.tool_choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}
        request.call_threshold = 0.0
        replies = [engine.generate([request])[0] for request.seed in range(4)]
        assert {call.name for reply in replies for call in reply.calls} <= {spec.name for spec in sample.specs[1:3]}
        assert all(reply.token_ids[0] == engine.tokenizer.special.call for reply in replies)
    with pytest.raises(ValueError, match="no functions"):
        engine.generate([Request([{"role": "user", "content": "hi"}], tool_choice="required")])
