"""Chat completions as they leave: whole, or in pieces whose sum is the whole.

Beside OpenAI's fields stand what only this model knows, under names that begin with `x_`: the head's decision,
a call's confidence, and where each argument came from. `finish_reason` is `tool_calls` if and only if there
are calls.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Any

from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions.canonical import canonical_json
from multimodal_ai.inference.requests import Call, Delta, Reply, TokenLogprob
from multimodal_ai.serving.answer import Answer
from multimodal_ai.serving.errors import as_api_error
from multimodal_ai.serving.protocol import ChatRequest


def new_id(prefix: str) -> str:
    """An identity that no other object has."""
    return f"{prefix}{uuid.uuid4().hex}"


class ChatCompletion:
    """One chat completion on its way out."""

    def __init__(self, body: ChatRequest, model: str, tokenizer: Tokenizer) -> None:
        self.body, self.model, self.tokenizer = body, model, tokenizer
        self.id, self.created = new_id("chatcmpl-"), int(time.time())
        self.logprobs = bool(body.logprobs)
        self.counted = body.stream_options is not None and body.stream_options.include_usage

    # -- whole ------------------------------------------------------------------------------------------------

    def whole(self, replies: Sequence[Reply]) -> dict[str, Any]:
        """The `chat.completion` object."""
        choices = [
            {
                "index": number,
                "message": _message(reply),
                "logprobs": self._logprobs(reply.text_logprobs),
                "finish_reason": reply.finish_reason,
                "x_decision": decision(reply),
            }
            for number, reply in enumerate(replies)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": usage(replies)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    # -- in pieces --------------------------------------------------------------------------------------------

    async def events(self, answer: Answer) -> AsyncIterator[bytes]:
        """Server-sent events: a chunk for each piece, then the usage where asked for, then `[DONE]`."""
        begun: set[int] = set()
        ids: dict[tuple[int, int], str] = {}
        try:
            async for number, delta in answer.pieces():
                if number not in begun:
                    begun.add(number)
                    yield self.chunk(number, {"role": "assistant", "content": ""})
                if delta.kind == "end":
                    assert delta.reply is not None
                    extra = {"x_decision": decision(delta.reply)}
                    last = _last_delta(delta.reply)
                    yield self.chunk(number, last, delta.reply.finish_reason, extra=extra)
                else:
                    yield self.chunk(number, _delta(number, delta, ids), tokens=delta.tokens)
            if self.counted:
                yield self.usage_chunk(usage([answer.replies[number] for number in sorted(answer.replies)]))
            yield b"data: [DONE]\n\n"
        except Exception as error:
            yield event(as_api_error(error).body())

    def chunk(
        self,
        number: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        tokens: Sequence[TokenLogprob] = (),
        extra: dict[str, Any] | None = None,
    ) -> bytes:
        """One event of a stream: a piece of a choice."""
        choice = {
            "index": number,
            "delta": delta,
            "logprobs": self._logprobs(tokens) if tokens else None,
            "finish_reason": finish_reason,
            **(extra or {}),
        }
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        return event({**chunk, "usage": None} if self.counted else chunk)

    def usage_chunk(self, used: dict[str, Any]) -> bytes:
        """The event that ends a stream whose usage was asked for."""
        return event({**self._head("chat.completion.chunk"), "choices": [], "usage": used})

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        return {"content": scored_tokens(tokens, self.tokenizer), "refusal": None}


def scored_tokens(tokens: Sequence[TokenLogprob], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Tokens of text with their log-probabilities, each with the likeliest in its place."""

    def shown(token: int, logprob: float) -> dict[str, Any]:
        piece = tokenizer.token_bytes(token) or tokenizer.decode([token], skip_special=False).encode()
        return {"token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": logprob}

    return [
        {**shown(scored.token, scored.logprob), "top_logprobs": [shown(*pair) for pair in scored.top]}
        for scored in tokens
    ]


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def usage(replies: Sequence[Reply]) -> dict[str, Any]:
    """Tokens read and written; the prompt counts once, however many choices were made."""
    prompt = replies[0].usage["prompt_tokens"] if replies else 0
    written = sum(reply.usage["completion_tokens"] for reply in replies)
    counted: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "x_forced_tokens": sum(reply.usage["forced_tokens"] for reply in replies),
    }
    dropped = replies[0].usage.get("dropped_turns", 0) if replies else 0
    return {**counted, "x_dropped_turns": dropped} if dropped else counted


def summed_usage(replies: Sequence[Reply]) -> dict[str, Any]:
    """Tokens read and written in all turns of a run, each of which read the conversation anew."""
    each = [usage([reply]) for reply in replies]
    names = ("prompt_tokens", "completion_tokens", "total_tokens", "x_forced_tokens")
    return {name: sum(used[name] for used in each) for name in names}


def decision(reply: Reply) -> dict[str, Any] | None:
    """What the function-calling head decided before the first token; None without functions."""
    if reply.trigger is None:
        return None
    decided: dict[str, Any] = {
        "trigger": reply.trigger,
        "selection": [{"name": name, "probability": share} for name, share in reply.selection],
    }
    if reply.without_results is not None:
        decided["without_results"] = asdict(reply.without_results)
    return decided


def provenance(call: Call) -> dict[str, Any]:
    """How sure a call is, where each of its arguments came from, and where asked for what the model looked at."""
    return {
        "x_confidence": call.confidence,
        "x_sources": {name: asdict(source) for name, source in call.sources.items()},
        **attention(call),
    }


def attention(call: Call) -> dict[str, Any]:
    """What the model looked at for each argument, where that was asked for."""
    if call.attention is None:
        return {}
    return {"x_attention": {name: asdict(seen) for name, seen in call.attention.items()}}


def _message(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.content or None, "refusal": None}
    if reply.calls:
        message["tool_calls"] = [
            {
                "id": new_id("call_"),
                "type": "function",
                "function": {"name": call.name, "arguments": canonical_json(call.arguments)},
                **provenance(call),
            }
            for call in reply.calls
        ]
    else:
        message["content"] = reply.content
    if reply.format_errors:
        message["x_format_errors"] = list(reply.format_errors)
    return message


def _delta(number: int, delta: Delta, ids: dict[tuple[int, int], str]) -> dict[str, Any]:
    if delta.kind == "text":
        return {"content": delta.text}
    call: dict[str, Any] = {"index": delta.index}
    if delta.kind == "call_start":
        ids[number, delta.index] = new_id("call_")
        call |= {"id": ids[number, delta.index], "type": "function"}
        call["function"] = {"name": delta.name, "arguments": ""}
    elif delta.kind == "arguments":
        call["function"] = {"arguments": delta.text}
    elif delta.call is not None:
        call |= {"function": {"arguments": ""}, **provenance(delta.call)}  # clients expect a function in every piece
    return {"tool_calls": [call]}


def _last_delta(reply: Reply) -> dict[str, Any]:
    """What is known of a reply's calls only when it is over."""
    known = [
        {"index": number, "function": {"arguments": ""}, **attention(call)}
        for number, call in enumerate(reply.calls)
        if call.attention is not None
    ]
    return {"tool_calls": known} if known else {}
