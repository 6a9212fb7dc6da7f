"""Requests that join and leave a running batch, from many threads: the same replies, fair turns, no lost place."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from multimodal_ai.data.messages import Sample
from multimodal_ai.data.rows import DataError
from multimodal_ai.evaluation.common import to_request
from multimodal_ai.inference import Delta, Engine, Reply, Request
from multimodal_ai.inference.scheduler import Cancelled, Piece, QueueFull, Scheduler


def said(reply: Reply) -> dict[str, Any]:
    calls = [(call.name, call.arguments) for call in reply.calls]
    return {"content": reply.content, "calls": calls, "finish": reply.finish_reason, "ids": reply.token_ids}


@pytest.fixture
def requests(samples: dict[str, list[Sample]]) -> list[Request]:
    """Images, functions, histories and plain questions, greedy and sampled, short and long."""
    chosen = samples["digits"][:5] + samples["function_cards"][:5] + samples["easy_vqa"][:2]
    asked = [to_request(sample, max_tokens=20 + 13 * (number % 4))[0] for number, sample in enumerate(chosen)]
    for number, request in enumerate(asked):
        request.tool_choice = "required" if request.tools and number % 2 else "auto"
        request.temperature, request.seed = (1.0 if number % 3 == 2 else 0.0), number
    return asked


@pytest.fixture
def scheduler(engine: Engine) -> Iterator[Scheduler]:
    made = Scheduler(engine, max_rows=5, max_waiting=40, admitted_at_once=2)
    yield made
    made.close()


def hold(scheduler: Scheduler) -> threading.Event:
    """Keep the scheduler's thread busy until the event is set."""
    go, busy = threading.Event(), threading.Event()

    def wait() -> None:
        busy.set()
        go.wait(30)

    scheduler.call(wait)
    assert busy.wait(30)
    return go


def test_replies_are_the_same_alone_and_in_a_batch_that_others_join_and_leave(
    engine: Engine, requests: list[Request], scheduler: Scheduler
) -> None:
    alone = [said(engine.generate([request])[0]) for request in requests]
    handles = []
    for number, request in enumerate(requests):
        handles.append(scheduler.submit(request))
        if number % 4 == 3:
            time.sleep(0.01)  # the rest joins while these run
    assert [said(handle.reply()) for handle in handles] == alone
    engine.cache.use_weights("forget what was encoded")
    assert said(scheduler.submit(requests[0]).reply()) == alone[0], "cold"
    assert scheduler.running == 0 == scheduler.waiting


def test_pieces_add_up_to_the_reply(requests: list[Request], scheduler: Scheduler) -> None:
    for handle in [scheduler.submit(request) for request in requests]:
        pieces = list(handle)
        reply = pieces[-1].reply
        assert reply is not None
        assert "".join(piece.text for piece in pieces if piece.kind == "text") == reply.content
        assert [piece.call for piece in pieces if piece.kind == "call_end"] == reply.calls
        assert handle.ended is not None and handle.first_token is not None
        assert handle.submitted <= handle.first_token <= handle.ended


def test_cancelling_frees_the_place_at_once(scheduler: Scheduler) -> None:
    endless = Request([{"role": "user", "content": "hi"}], max_tokens=5000, temperature=1.0, seed=0)
    held = [scheduler.submit(replace(endless, seed=seed)) for seed in range(5)]
    begun = [iter(handle) for handle in held]
    for pieces in begun:
        next(pieces)
    waiting = scheduler.submit(replace(endless, max_tokens=4))
    held[0].cancel()
    assert len(waiting.reply().token_ids) <= 4
    with pytest.raises(Cancelled):
        list(begun[0])
    for handle in held[1:]:
        handle.cancel()
    for pieces in begun[1:]:
        with pytest.raises(Cancelled):
            list(pieces)
    assert scheduler.running == 0


def test_a_request_that_is_cancelled_while_it_waits_never_runs(engine: Engine, scheduler: Scheduler) -> None:
    go = hold(scheduler)
    handle = scheduler.submit(Request([{"role": "user", "content": "hi"}], max_tokens=4))
    handle.cancel()
    go.set()
    with pytest.raises(Cancelled):
        handle.reply()
    assert not engine.cache.hits["conversation"] + engine.cache.misses["conversation"]


def test_the_queue_is_bounded_and_owners_take_turns(engine: Engine) -> None:
    scheduler = Scheduler(engine, max_rows=1, max_waiting=6, admitted_at_once=1)
    go = hold(scheduler)
    order: list[str] = []

    def note(owner: str) -> Any:
        def emit(piece: Piece) -> None:
            if isinstance(piece, Delta) and piece.kind == "end":
                order.append(owner)

        return emit

    request = Request([{"role": "user", "content": "hi"}], max_tokens=3)
    handles = [scheduler.submit(request, owner, note(owner)) for owner in ("greedy",) * 4 + ("shy",) * 2]
    with pytest.raises(QueueFull, match="6 requests"):
        scheduler.submit(request, "late")
    go.set()
    deadline = time.monotonic() + 30
    while len(order) < 6 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert order == ["greedy", "shy", "greedy", "shy", "greedy", "greedy"]
    assert all(handle.ended for handle in handles)
    scheduler.close()
    with pytest.raises(RuntimeError, match="closed"):
        scheduler.submit(request)


def test_a_bad_request_fails_alone(scheduler: Scheduler) -> None:
    fine = Request([{"role": "user", "content": "hi"}], max_tokens=4)
    go = hold(scheduler)
    good, bad = scheduler.submit(fine), scheduler.submit(replace(fine, tool_choice={"name": "nobody"}))
    go.set()
    assert good.reply().token_ids
    with pytest.raises(ValueError, match="nobody"):
        bad.reply()
    with pytest.raises(DataError):
        scheduler.submit(Request([{"role": "user", "content": ""}]))


def test_a_step_that_fails_ends_its_requests_and_not_the_server(
    engine: Engine, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request([{"role": "user", "content": "hi"}], max_tokens=30, temperature=1.0, seed=1)
    whole = said(scheduler.submit(request).reply())
    step = engine.model.decoder.step

    def broken(*arguments: Any) -> Any:
        raise MemoryError("no more")

    monkeypatch.setattr(engine.model.decoder, "step", broken)
    with pytest.raises(MemoryError):
        scheduler.submit(request).reply()
    monkeypatch.setattr(engine.model.decoder, "step", step)
    assert said(scheduler.submit(request).reply()) == whole


def test_closing_ends_everything(engine: Engine) -> None:
    scheduler = Scheduler(engine, max_rows=1)
    request = Request([{"role": "user", "content": "hi"}], max_tokens=5000, temperature=1.0, seed=0)
    handles = [scheduler.submit(request) for _ in range(3)]
    next(iter(handles[0]))
    scheduler.close()
    for handle in handles:
        with pytest.raises(Cancelled):
            handle.reply()
    assert not scheduler.alive


def test_stop_strings_never_leave_in_pieces(scheduler: Scheduler) -> None:
    request = Request([{"role": "user", "content": "hi"}], max_tokens=40, temperature=1.0, seed=3)
    whole = scheduler.submit(request).reply().content
    for stop in (whole[5:8], whole[-3:], whole[:2], whole[9:10]):
        pieces = list(scheduler.submit(replace(request, stop=(stop, "not in there"))))
        text = "".join(piece.text for piece in pieces if piece.kind == "text")
        reply = pieces[-1].reply
        assert reply is not None and text == reply.content == whole[: whole.index(stop)]
        assert reply.finish_reason == "stop"


def test_log_probabilities_stand_beside_their_text(engine: Engine, scheduler: Scheduler) -> None:
    request = Request([{"role": "user", "content": "hi"}], max_tokens=25, temperature=1.0, seed=5, logprobs=True)
    request.top_logprobs = 3
    pieces = list(scheduler.submit(request))
    reply = pieces[-1].reply
    assert reply is not None and reply.text_logprobs == [scored for piece in pieces for scored in piece.tokens]
    assert engine.tokenizer.decode([scored.token for scored in reply.text_logprobs]) == reply.content
    for scored in reply.text_logprobs:
        best = [value for _, value in scored.top]
        assert len(best) == 3 and best == sorted(best, reverse=True) and scored.logprob <= best[0] + 1e-6
        assert dict(scored.top).get(scored.token, scored.logprob) == pytest.approx(scored.logprob)


def test_a_call_that_only_validation_can_refuse_is_held_back(engine: Engine) -> None:
    """`uniqueItems` is in no grammar: the pieces of a call that breaks it must not be seen."""
    numbers = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 3, "maxItems": 3, "uniqueItems": True}
    schema = {"type": "object", "properties": {"numbers": numbers}, "required": ["numbers"]}
    tool = {"type": "function", "function": {"name": "draw", "parameters": schema}}
    asked = Request([{"role": "user", "content": "hi"}], tools=[tool], tool_choice="required", max_tokens=80)
    asked.parallel_tool_calls = False
    pieces = list(engine.stream(asked))
    assert [piece.kind for piece in pieces] == ["end"] and pieces[-1].reply is not None
    assert not pieces[-1].reply.calls and pieces[-1].reply.finish_reason == "stop"
    numbers.update(minItems=2, maxItems=2, items={"enum": [1]}, uniqueItems=False)
    assert [piece.call for piece in engine.stream(asked) if piece.kind == "call_end"]


@torch.no_grad()
def test_other_weights_give_other_replies_at_once(engine: Engine, requests: list[Request]) -> None:
    """Nothing that former weights computed is used: images, cards, conversations, keys of functions."""
    before = [engine.generate([request])[0].trigger for request in requests]
    keys = engine.function_keys(engine.encoder.example(requests[0]).specs)
    for parameter in engine.model.parameters():
        parameter.mul_(0.7)
    fresh = Engine(engine.model, engine.tokenizer, engine.processing)
    for request, old in zip(requests, before, strict=True):
        reply = engine.generate([request])[0]
        assert said(reply) == said(fresh.generate([request])[0])
        assert old is None or reply.trigger != old
    assert not torch.allclose(engine.function_keys(engine.encoder.example(requests[0]).specs), keys)


def test_what_is_kept_is_bounded_and_used_again(engine: Engine, requests: list[Request]) -> None:
    engine.generate(requests)
    cache = engine.cache
    assert cache.misses["image"] and cache.misses["card"] and cache.misses["conversation"]
    missed = dict(cache.misses)
    engine.generate([replace(request, seed=7) for request in requests])
    assert dict(cache.misses) == missed and cache.hits["conversation"] >= len(requests)
    follow_up = [*requests[0].messages, {"role": "assistant", "content": "well"}, {"role": "user", "content": "more"}]
    engine.generate([replace(requests[0], messages=follow_up)])
    assert cache.misses["image"] == missed["image"] and cache.misses["card"] == missed["card"]
    small = Engine(engine.model, engine.tokenizer, engine.processing, cache_bytes=cache.bytes // 3)
    assert [said(reply) for reply in small.generate(requests)] == [said(reply) for reply in engine.generate(requests)]
    assert 0 < small.cache.bytes <= small.cache.max_bytes < cache.bytes
