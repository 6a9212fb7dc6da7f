"""One reply while it is written: tokens in, pieces of text and calls out.

It keeps the grammar's, the parser's and the stop strings' state, counts, and decides when the reply is over.
Joined pieces equal the reply: text that may turn out to begin a stop string is held back until that is known,
and so is a call whose schema the grammar cannot hold in full until it has been validated. It knows ids and
probabilities, never tensors of the model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from multimodal_ai.data.packing import WRITTEN, last_written
from multimodal_ai.data.rendering import RESULT, SYSTEM
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions.call_parser import ParserEvent
from multimodal_ai.functions.choices import format_errors
from multimodal_ai.functions.provenance import Origin, Provenance
from multimodal_ai.functions.schema import validate_arguments
from multimodal_ai.inference.requests import ArgumentSource, Call, Decision, Delta, Reply, Request, TokenLogprob
from multimodal_ai.inference.steering import Steering

Copied = tuple[float, int]  # the pointer's share of a token, and the role of the source token
_ORIGINS: dict[int, Origin] = {SYSTEM: "system", RESULT: "function_result"}


@dataclass(eq=False)
class ReplyWriter:
    """See the module's docstring. opening: the token before the first one; answers_result: a function's result
    stands in the conversation, and text may copy from it; without_results: see `Reply`, asked where it matters;
    attention: gives the reply's calls with what was looked at, asked where the request asks.
    """

    request: Request
    steering: Steering
    reply: Reply
    tokenizer: Tokenizer
    opening: int
    answers_result: bool
    without_results: Callable[[Request], Decision]
    attention: Callable[[Reply], list[Call]]
    finished: bool = False
    allowed: np.ndarray = field(init=False)
    bias: dict[int, float] = field(init=False)

    def __post_init__(self) -> None:
        self.last = self.opening
        self.written: tuple[int, ...] = (self.opening,) + (-1,) * (WRITTEN - 1)  # without spaces, the latest first
        self._forced = self._told = self._calls = 0  # _told: characters of the content that have gone out
        self._tokens: list[tuple[int, TokenLogprob]] = []  # of text that has not gone out, and where each begins
        self._held: list[Delta] | None = None  # of an open call that must be validated first
        self._probabilities: list[float] = []  # of the open call's free tokens
        self._sure: dict[str, list[float]] = {}  # the same by argument
        self._copied: dict[str, list[Copied]] = {}  # of its arguments

    def prepare(self) -> None:
        """Find out which tokens may come next, bool[V], and what the head adds to some. May raise GrammarError."""
        self.allowed = self.steering.matcher.allowed()
        steered = bool(self.steering.specs) or self.steering.formatted
        if steered and len(self.reply.token_ids) * 3 >= self.request.max_tokens * 2:
            # The last third of the tokens is kept for bringing an open call to its end.
            self.allowed = self.steering.closing(self.allowed)
        self.bias = self.steering.bias(self.allowed)

    def likeliest(self, log_probabilities: Tensor) -> tuple[tuple[int, float], ...]:
        """The `top_logprobs` best of float32[V] that the grammar allows, for a token of text."""
        if not self.request.top_logprobs or not self.steering.in_text:
            return ()
        values, tokens = log_probabilities.topk(min(self.request.top_logprobs, len(log_probabilities)))
        pairs = zip(tokens.tolist(), values.tolist(), strict=True)
        return tuple((token, value) for token, value in pairs if math.isfinite(value))

    def write(
        self,
        token: int,
        logprob: float,
        copied: Copied | None,
        forced: bool = False,
        top: tuple[tuple[int, float], ...] = (),
    ) -> Iterator[Delta]:
        """Add one token to the reply and pass on what it completes."""
        reply, steering, special = self.reply, self.steering, self.tokenizer.special
        parameter = steering.parser.parameter
        inside = not steering.in_text
        begins = len(reply.content)
        events = steering.take(token)
        reply.token_ids.append(token)
        self.written, self.last = last_written(self.written, token, self.tokenizer.space), token
        self._forced += forced
        if inside and not forced:
            self._probabilities.append(math.exp(logprob))
            if parameter is not None:
                self._sure.setdefault(parameter, []).append(math.exp(logprob))
        if parameter is not None and copied is not None:
            self._copied.setdefault(parameter, []).append(copied)
        if self.request.logprobs:
            reply.logprobs.append(logprob)
            if not inside and self.tokenizer.token_bytes(token):
                self._tokens.append((begins, TokenLogprob(token, logprob, top)))
        stopped = False
        for event in events:
            yield from self._event(event)
            stopped = stopped or len(reply.content) > self._stop_place()
        if token != special.end and not stopped and len(reply.token_ids) >= self.request.max_tokens:
            reply.finish_reason = "length"
            for event in steering.parser.close():
                yield from self._event(event)
            stopped = len(reply.content) > self._stop_place()
        elif token != special.end and not stopped:
            return
        yield from self._finish()

    def _finish(self) -> Iterator[Delta]:
        reply = self.reply
        place = self._stop_place()
        if len(reply.content) > place:
            reply.content, reply.finish_reason = reply.content[:place], "stop"
        yield from self._text(len(reply.content))
        if reply.calls:
            reply.finish_reason = "tool_calls"
            side_effects = {spec.name for spec in self.steering.specs if spec.side_effect}
            if self.answers_result and not side_effects.isdisjoint(call.name for call in reply.calls):
                reply.without_results = self.without_results(self.request)
            if self.request.attention:
                reply.calls = self.attention(reply)
        elif self.steering.formatted:
            reply.format_errors = format_errors(reply.content, self.request.response_format)
        self.finished = True
        reply.usage["completion_tokens"] = len(reply.token_ids)
        reply.usage["forced_tokens"] = self._forced
        yield Delta("end", reply=reply)

    # -- text -------------------------------------------------------------------------------------------------

    def _stop_place(self) -> int:
        """Where the first stop string begins in the content; its length where there is none."""
        content = self.reply.content
        found = [content.find(stop, self._told) for stop in self.request.stop]
        return min((place for place in found if place >= 0), default=len(content))

    def _text(self, until: int) -> Iterator[Delta]:
        """Pass on the content up to a character."""
        if until <= self._told:
            return
        tokens = tuple(scored for begins, scored in self._tokens if begins < until)
        self._tokens = self._tokens[len(tokens) :]
        self.reply.text_logprobs += tokens
        piece, self._told = self.reply.content[self._told : until], until
        yield Delta("text", piece, tokens=tokens)

    def _safe(self) -> int:
        """How much of the content can hold no beginning of a stop string at its end."""
        content, safe = self.reply.content, len(self.reply.content)
        for stop in self.request.stop:
            for length in range(min(len(stop) - 1, len(content) - self._told), 0, -1):
                if content.endswith(stop[:length]):
                    safe = min(safe, len(content) - length)
                    break
        return safe

    # -- calls ------------------------------------------------------------------------------------------------

    def _event(self, event: ParserEvent) -> Iterator[Delta]:
        if event.kind == "text":
            self.reply.content += event.text
            yield from self._text(min(self._safe(), self._stop_place()))
            return
        if event.kind == "call_start":
            yield from self._text(self._stop_place())
            self._held = [] if event.name in self.steering.unenforced else None
            yield from self._pass(Delta("call_start", index=self._calls, name=event.name))
        elif event.kind == "arguments":
            yield from self._pass(Delta("arguments", event.text, self._calls, name=event.name))
        elif event.kind == "call_end":
            call = self._call(event)
            held, self._held = self._held or [], None
            self._probabilities, self._sure, self._copied = [], {}, {}
            if call is not None:
                self.reply.calls.append(call)
                yield from held
                yield Delta("call_end", index=self._calls, call=call, name=call.name)
                self._calls += 1
        else:  # a call that was cut
            self._held = None

    def _pass(self, delta: Delta) -> Iterator[Delta]:
        if self._held is None:
            yield delta
        else:
            self._held.append(delta)

    def _call(self, event: ParserEvent) -> Call | None:
        """The finished call, or None where it does not validate (a keyword that the grammar cannot enforce)."""
        spec = next((spec for spec in self.steering.specs if spec.name == event.name), None)
        if spec is None or event.arguments is None or validate_arguments(spec, event.arguments):
            return None
        confidence = self.steering.call_probability * self.steering.selection.get(spec.name, 1.0)
        confidence *= _mean(self._probabilities, 1.0)
        sources = {}
        provenance = Provenance.of(self.request.messages, self.steering.specs, self.request.today)
        for name, value in event.arguments.items():
            shares = self._copied.get(name, [])
            mean = _mean([share for share, _ in shares], 0.0)
            origin: Origin = "generated"
            if mean >= 0.5:
                strongest = max(shares, key=lambda pair: pair[0])[1]
                # One token from a function's result marks the value: provenance must not be averaged away.
                origin = _ORIGINS.get(RESULT if any(r == RESULT for s, r in shares if s > 0.5) else strongest, "user")
            sure = _mean(self._sure.get(name, []), 1.0)
            sources[name] = ArgumentSource(provenance.origin(value, origin), mean, sure)
        identity = f"{len(self.request.messages)}/{len(self.reply.calls)}/{spec.name}{event.text}"
        digest = hashlib.sha256(identity.encode()).hexdigest()
        return Call(f"call_{digest[:12]}", spec.name, event.arguments, confidence, sources)


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
