"""Engine: requests in, replies out. Batched generation with a cache, a grammar and the function head.

The context is encoded once per request and its keys and values are kept; a step writes one token, or all
tokens that the grammar forces, for every row that is not finished. Rows never see each other: a reply does
not depend on what else is in the batch. Every call that leaves parses, names a listed function and
validates. The renderer is the training's own.
"""

from __future__ import annotations

import datetime
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from multimodal_ai.data.examples import Example, function_inputs
from multimodal_ai.data.image_processor import ImageProcessor
from multimodal_ai.data.messages import Message, Sample
from multimodal_ai.data.packing import WRITTEN, Batch, collate, last_written
from multimodal_ai.data.processing import ProcessingConfig
from multimodal_ai.data.rendering import RESULT, SYSTEM, USER, Renderer, Source, Target
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions.call_parser import ParserEvent
from multimodal_ai.functions.choices import format_errors
from multimodal_ai.functions.grammar import GrammarCompiler
from multimodal_ai.functions.provenance import Origin, Provenance, mask_results
from multimodal_ai.functions.schema import FunctionSpec, validate_arguments
from multimodal_ai.inference.requests import ArgumentSource, Call, Decision, Delta, Reply, Request
from multimodal_ai.inference.retrieval import Retriever
from multimodal_ai.inference.sampling import Sampler
from multimodal_ai.inference.spelled import SpelledValues
from multimodal_ai.inference.steering import Steering
from multimodal_ai.models.decoder import Context
from multimodal_ai.models.function_head import TRIGGER_CLASSES, FunctionScores, continuation, copied_ids
from multimodal_ai.models.multimodal_model import MultimodalModel

_ORIGINS: dict[int, Origin] = {SYSTEM: "system", RESULT: "function_result"}


@dataclass
class _Row:
    """One request while it is being answered."""

    request: Request
    steering: Steering
    reply: Reply
    pending: list[int]  # tokens written but not yet run through the decoder
    written: tuple[int, ...]  # the last tokens without spaces, the latest first
    last: int  # the last token
    answers_result: bool = False  # a function's result stands in the conversation, and text may copy from it
    forced: int = 0
    finished: bool = False
    open_probabilities: list[float] = field(default_factory=list)  # of the open call's free tokens
    value_probabilities: dict[str, list[float]] = field(default_factory=dict)  # the same by argument
    copied: dict[str, list[tuple[float, int]]] = field(default_factory=dict)  # of its arguments: share, role

    @property
    def near_limit(self) -> bool:
        """Whether an open call must be brought to its end: the last third of the tokens is kept for that."""
        return len(self.reply.token_ids) * 3 >= self.request.max_tokens * 2 and (
            bool(self.steering.specs) or self.steering.formatted
        )


class Engine:
    """A model with its tokenizer and processing, ready to answer. Not safe for use by several threads at once."""

    def __init__(
        self, model: MultimodalModel, tokenizer: Tokenizer, processing: ProcessingConfig | None = None
    ) -> None:
        if model.config.vocab_size != tokenizer.vocab_size:
            raise ValueError(f"the model knows {model.config.vocab_size} tokens, the tokenizer {tokenizer.vocab_size}")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.processing = processing or ProcessingConfig()
        self.renderer = Renderer(tokenizer, self.processing.rendering)
        self.images = ImageProcessor(self.processing.image.model_copy(update={"augment": None}))
        self.grammars = GrammarCompiler(tokenizer)
        self.retriever = Retriever(self.model, self.renderer, self._states)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> Engine:
        """Load a folder that training wrote: weights, configs and tokenizer."""
        folder = Path(folder)
        model = MultimodalModel.from_pretrained(folder, device)
        return cls(model, Tokenizer.load(folder), ProcessingConfig.load(folder))

    # -- answering --------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer all requests in one batch."""
        replies: dict[int, Reply] = {}
        for row, delta in self._run(requests):
            if delta.reply is not None:
                replies[row] = delta.reply
        return [replies[row] for row in range(len(requests))]

    def stream(self, request: Request) -> Iterator[Delta]:
        """Answer one request piece by piece; the last piece holds the whole reply."""
        for _, delta in self._run([request]):
            yield delta

    @torch.inference_mode()
    def _run(self, requests: Sequence[Request]) -> Iterator[tuple[int, Delta]]:
        if not requests:
            return
        requests = [self.retriever.narrowed(request) for request in requests]
        examples = [self._example(request) for request in requests]
        batch = self._collate(examples)
        model, device = self.model, self.model.device
        context = self._encode(batch)
        memory = model.decoder.memory(context)
        start = torch.tensor([self.renderer.start()] * len(requests), device=device)
        longest = max(request.max_tokens for request in requests)
        cache = model.decoder.new_cache(len(requests), 2 * longest + 2, device, model.embedding.weight.dtype)
        ones = torch.ones(len(requests), dtype=torch.long, device=device)
        states, first = model.decoder.step(model.embed_target(start), ones, memory, cache)
        scores, parameters = self._scores(first, context, batch)
        rows = [
            self._start(request, example, scores, number)
            for number, (request, example) in enumerate(zip(requests, examples, strict=True))
        ]
        sampler = Sampler(requests)
        copy_keys = model.head.copy_key(context.states)
        last = states[:, -1]
        while True:
            active = [number for number, row in enumerate(rows) if not row.finished]
            if not active:
                return
            logits, copied = self._next(rows, active, last, batch, context, parameters, copy_keys)
            tokens, log_probabilities = sampler(logits, active)
            for place, (number, token) in enumerate(zip(active, tokens, strict=True)):
                row = rows[number]
                share = copied.get(place, {}).get(token)
                logprob = float(log_probabilities[place, token])
                yield from self._write(number, row, token, logprob, share)
                while not row.finished:
                    forced = row.steering.matcher.forced()
                    if not forced:
                        break
                    for index in forced:
                        if not row.finished:
                            yield from self._write(number, row, index, 0.0, None, forced=True)
            counts = torch.tensor([0 if row.finished else len(row.pending) for row in rows], device=device)
            width = int(counts.max())
            if width == 0:
                continue
            ids = torch.zeros(len(rows), width, dtype=torch.long, device=device)
            for number, row in enumerate(rows):
                if not row.finished:
                    ids[number, : len(row.pending)] = torch.tensor(row.pending, device=device)
                row.pending = []
            states, _ = model.decoder.step(model.embed_target(ids), counts, memory, cache)
            last = states[torch.arange(len(rows), device=device), (counts - 1).clamp(min=0)]

    def _write(
        self,
        number: int,
        row: _Row,
        token: int,
        logprob: float,
        copied: tuple[float, int] | None,
        forced: bool = False,
    ) -> Iterator[tuple[int, Delta]]:
        """Add one token to a reply and pass on what it completes."""
        reply, steering = row.reply, row.steering
        parameter = steering.parser.parameter
        inside = steering.parser.state != "text"
        events = steering.take(token)
        reply.token_ids.append(token)
        reply.logprobs.append(logprob)
        row.pending.append(token)
        row.written, row.last = last_written(row.written, token, self.tokenizer.space), token
        row.forced += forced
        if inside and not forced:
            row.open_probabilities.append(math.exp(logprob))
            if parameter is not None:
                row.value_probabilities.setdefault(parameter, []).append(math.exp(logprob))
        if parameter is not None and copied is not None:
            row.copied.setdefault(parameter, []).append(copied)
        for event in events:
            yield from self._event(number, row, event)
        special = self.tokenizer.special
        stopped = next((text for text in row.request.stop if text in reply.content), None)
        if stopped is not None:
            reply.content = reply.content[: reply.content.index(stopped)]
        if token == special.end or stopped is not None or len(reply.token_ids) >= row.request.max_tokens:
            if token != special.end and stopped is None:
                reply.finish_reason = "length"
                for event in steering.parser.close():
                    yield from self._event(number, row, event)
            if reply.calls:
                reply.finish_reason = "tool_calls"
                reply.without_results = self._without_results(row)
            elif steering.formatted:
                reply.format_errors = format_errors(reply.content, row.request.response_format)
            row.finished = True
            reply.usage["completion_tokens"] = len(reply.token_ids)
            reply.usage["forced_tokens"] = row.forced
            if not row.request.logprobs:
                reply.logprobs = []
            yield number, Delta("end", reply=reply)

    def _event(self, number: int, row: _Row, event: ParserEvent) -> Iterator[tuple[int, Delta]]:
        if event.kind == "text":
            row.reply.content += event.text
            yield number, Delta("text", event.text)
        elif event.kind in ("call_start", "arguments"):
            kind = "call_start" if event.kind == "call_start" else "arguments"
            yield number, Delta(kind, event.text, event.index, name=event.name)  # type: ignore[arg-type]
        elif event.kind == "call_end":
            call = self._call(row, event)
            row.open_probabilities, row.value_probabilities, row.copied = [], {}, {}
            if call is not None:
                row.reply.calls.append(call)
                yield number, Delta("call_end", index=event.index, call=call, name=call.name)

    @staticmethod
    def _call(row: _Row, event: ParserEvent) -> Call | None:
        """The finished call, or None where it does not validate (a keyword that the grammar cannot enforce)."""
        spec = next((spec for spec in row.steering.specs if spec.name == event.name), None)
        if spec is None or event.arguments is None or validate_arguments(spec, event.arguments):
            return None
        free = row.open_probabilities
        confidence = row.steering.call_probability * row.steering.selection.get(spec.name, 1.0)
        confidence *= _mean(free, 1.0)
        sources = {}
        provenance = Provenance.of(row.request.messages, row.steering.specs, row.request.today)
        for name, value in event.arguments.items():
            shares = row.copied.get(name, [])
            mean = _mean([share for share, _ in shares], 0.0)
            origin: Origin = "generated"
            if mean >= 0.5:
                strongest = max(shares, key=lambda pair: pair[0])[1]
                # One token from a function's result marks the value: provenance must not be averaged away.
                origin = _ORIGINS.get(RESULT if any(r == RESULT for s, r in shares if s > 0.5) else strongest, "user")
            sure = _mean(row.value_probabilities.get(name, []), 1.0)
            sources[name] = ArgumentSource(provenance.origin(value, origin), mean, sure)
        identity = f"{len(row.request.messages)}/{len(row.reply.calls)}/{spec.name}{event.text}"
        digest = hashlib.sha256(identity.encode()).hexdigest()
        return Call(f"call_{digest[:12]}", spec.name, event.arguments, confidence, sources)

    def _without_results(self, row: _Row) -> Decision | None:
        """The head's decision with every result hidden, where a call with side effects follows results."""
        side_effects = {spec.name for spec in row.steering.specs if spec.side_effect}
        if not row.answers_result or side_effects.isdisjoint(call.name for call in row.reply.calls):
            return None
        messages, images = mask_results(row.request.messages, row.request.images)
        hidden = replace(row.request, messages=messages, images=images, tool_choice="none", max_tokens=1)
        reply = self.generate([hidden])[0]
        assert reply.trigger is not None
        return Decision(reply.trigger["call"], reply.selection[0][0] if reply.selection else None)

    # -- pieces of a step -------------------------------------------------------------------------------------

    def _example(self, request: Request) -> Example:
        """The request as the training's renderer makes it, without an answer."""
        if not request.messages:  # plain text goes on from nothing, as in pretraining
            source = Source()
            source.special(self.tokenizer.special.doc, USER)
            return Example(source, Target(ids=self.renderer.start()))
        sample = Sample.from_request(request.messages, request.tools, request.images)
        processed = [self.images(image) for image in sample.images]
        source = self.renderer.source(sample.messages, [image.grid for image in processed])
        cards, lexical, required = function_inputs(self.renderer, sample.specs, sample.messages)
        example = Example(source, Target(ids=self.renderer.start()), cards, lexical, required, processed)
        example.presence = [[-1] * len(spec.parameter_names) for spec in sample.specs]
        example.specs = sample.specs
        return example

    def _collate(self, examples: Sequence[Example]) -> Batch:
        patch_values = 3 * self.processing.image.patch_size**2
        batch = collate(examples, patch_values, self.tokenizer.space)
        return batch.to(self.model.device)

    def _encode(self, batch: Batch) -> Context:
        model = self.model
        visual = model.encode_images(batch.patches, batch.grids)[0] if len(batch.patches) else None
        texts = None
        if len(batch.text_ids):
            texts = model.encode_texts(batch.text_ids, batch.text_space, batch.text_lengths)
        return model.encode(batch, visual, texts)

    def _states(self, requests: Sequence[Request]) -> Tensor:
        """float[n, D] the decision state of each request."""
        batch = self._collate([self._example(request) for request in requests])
        context = self._encode(batch)
        _, first = self.model.decoder(self.model.embed_target(batch.target_ids), batch.target_lengths, context)
        return self._scores(first, context, batch)[0].state

    def _scores(self, first: Tensor, context: Context, batch: Batch) -> tuple[FunctionScores, Tensor | None]:
        head = self.model.head
        parameters = None
        if context.texts is not None:
            parameters = head.parameter_embeddings(context.texts.states, batch.text_parameter, batch.required.shape[-1])
        return head(first, context, parameters, batch.lexical, batch.required), parameters

    def _start(self, request: Request, example: Example, scores: FunctionScores, number: int) -> _Row:
        specs: tuple[FunctionSpec, ...] = example.specs
        reply = Reply(usage={"prompt_tokens": len(example.source.ids) + sum(len(card.ids) for card in example.cards)})
        if example.source.dropped_turns:
            reply.usage["dropped_turns"] = example.source.dropped_turns
        selection: dict[str, float] = {}
        presence: list[list[float]] = []
        if specs:
            temperature = self.processing.trigger_temperature
            probabilities = (scores.trigger[number] / temperature).softmax(-1).tolist()
            reply.trigger = dict(zip(TRIGGER_CLASSES, probabilities, strict=True))
            shares = scores.selection[number, : len(specs)].softmax(-1).tolist()
            selection = {spec.name: share for spec, share in zip(specs, shares, strict=True)}
            reply.selection = sorted(selection.items(), key=lambda pair: -pair[1])
            present = scores.presence[number].sigmoid().tolist()
            presence = [present[place][: len(spec.parameter_names)] for place, spec in enumerate(specs)]
        spelled = SpelledValues(example.source, self.tokenizer, request.today or datetime.date.today())
        steering = Steering.start(
            request, specs, self.grammars, self.tokenizer, reply.trigger, selection, presence, spelled
        )
        (opening,) = self.renderer.start()
        written = (opening,) + (-1,) * (WRITTEN - 1)
        return _Row(request, steering, reply, [], written, opening, RESULT in example.source.role)

    def _next(
        self,
        rows: list[_Row],
        active: list[int],
        last: Tensor,
        batch: Batch,
        context: Context,
        parameters: Tensor | None,
        copy_keys: Tensor,
    ) -> tuple[Tensor, dict[int, dict[int, tuple[float, int]]]]:
        """Masked log-scores float32[n, V] of the active rows, and for rows inside a value how much of each
        token the pointer gave, with the role it came from.
        """
        device = last.device
        logits = self.model.logits(last[active])
        copied: dict[int, dict[int, tuple[float, int]]] = {}
        values = [(place, number, rows[number].steering.value()) for place, number in enumerate(active)]
        inside = [(place, number, where) for place, number, where in values if where is not None]
        for place, number in enumerate(active):
            if values[place][2] is None and rows[number].answers_result and rows[number].steering.in_text:
                inside.append((place, number, (-1, -1)))
        if inside and parameters is not None and context.card_index is not None:
            index = torch.tensor([number for _, number, _ in inside], device=device)
            function = torch.tensor([where[0] for _, _, where in inside], device=device)
            parameter = torch.tensor([where[1] for _, _, where in inside], device=device)
            filling = (function >= 0)[:, None]
            card = context.card_index[index, function.clamp(min=0)].clamp(min=0)
            wanted = parameters[card, parameter.clamp(min=0)] * filling
            written = torch.tensor([rows[number].written for _, number, _ in inside], device=device)
            continues = continuation(batch.source_ids[index], written)
            spelled = [rows[number].steering.spelled_out() for _, number, _ in inside]
            for line, values_there in enumerate(spelled):
                for value in values_there:
                    continues[line, value.start : value.end, : value.agreed] = True
            gate, attention = self.model.head.copy_scores(
                last[index], wanted, copy_keys[index], batch.copyable[index], continues
            )
            last_token = torch.tensor([rows[number].last for _, number, _ in inside], device=device)
            ids = copied_ids(batch.source_ids[index], batch.source_space[index], continues, last_token, batch.space)
            places = torch.tensor([place for place, _, _ in inside], device=device)
            generate = logits[places].log_softmax(-1)
            for line, values_there in enumerate(spelled):
                for value in values_there:
                    ids[line, value.start : value.end] = max(value.tokens, key=lambda id: float(generate[line, id]))
            weights = (attention.exp() * batch.copyable[index]).float()
            pointed = torch.zeros_like(generate).scatter_add_(1, ids, weights)
            mixture = torch.logaddexp(
                F.logsigmoid(-gate)[:, None] + generate, F.logsigmoid(gate)[:, None] + pointed.clamp(min=1e-30).log()
            )
            logits[places] = mixture
            share = (F.logsigmoid(gate)[:, None] + pointed.clamp(min=1e-30).log() - mixture).exp()
            for line, (place, number, _) in enumerate(inside):
                best = weights[line].topk(min(4, weights.shape[1])).indices.tolist()
                copied[place] = {
                    int(ids[line, position]): (
                        float(share[line, ids[line, position]]),
                        int(batch.source_role[number, position]),
                    )
                    for position in reversed(best)
                }
        for place, number in enumerate(active):
            allowed = rows[number].steering.matcher.allowed()
            if rows[number].near_limit:
                allowed = rows[number].steering.closing(allowed)
            for token, weight in rows[number].steering.bias(allowed).items():
                logits[place, token] += weight
            logits[place].masked_fill_(torch.from_numpy(~allowed).to(device), float("-inf"))
        return logits, copied

    # -- scoring and embedding --------------------------------------------------------------------------------

    @torch.inference_mode()
    def score(self, requests: Sequence[Request], replies: Sequence[str | dict[str, Any]]) -> list[float]:
        """Log-probability in nats of given replies (a text, or an assistant message), end included."""
        unlimited = Renderer(self.tokenizer, self.processing.rendering.model_copy(update={"max_target": 1 << 20}))
        examples = []
        for request, reply in zip(requests, replies, strict=True):
            example = self._example(request)
            message = {"role": "assistant", "content": reply} if isinstance(reply, str) else reply
            turn = Message.model_validate(message)
            example.target = unlimited.target(turn, example.specs, example.source)
            examples.append(example)
        batch = self._collate(examples)
        context = self._encode(batch)
        states, _ = self.model.decoder(self.model.embed_target(batch.target_ids), batch.target_lengths, context)
        log_probabilities = self.model.logits(states).log_softmax(-1)
        real = batch.labels >= 0
        picked = log_probabilities.gather(-1, batch.labels.clamp(min=0)[..., None]).squeeze(-1)
        return (picked * real).double().sum(1).tolist()

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Any]) -> Tensor:
        """Normalised embeddings float32[n, E] of images, in the space of `embed_texts`."""
        processed = [self.images(image) for image in images]
        example = Example(Source([0], [False], [USER]), Target(ids=[0]), images=processed)
        batch = self._collate([example])
        embedded = self.model.encode_images(batch.patches, batch.grids)[1]
        return embedded[batch.image_index[0]]

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Normalised embeddings float32[n, E] of texts."""
        cards = tuple(self.renderer.text_card(text, key=text) for text in texts)
        none = [[False]] * len(cards)
        example = Example(Source([0], [False], [USER]), Target(ids=[0]), cards, [0.0] * len(cards), none)
        example.presence = [[-1]] * len(cards)
        batch = self._collate([example])
        encoded = self.model.encode_texts(batch.text_ids, batch.text_space, batch.text_lengths)
        return F.normalize(encoded.pooled.float(), dim=-1)[batch.card_index[0]]

    # -- selection --------------------------------------------------------------------------------------------

    @property
    def selection_weights(self) -> tuple[float, float]:
        """What the head multiplies the cosine of query and key with, and the lexical score, before it adds them."""
        head = self.model.head
        return head.selection_scale.exp().item(), head.lexical_scale.item()

    @torch.inference_mode()
    def selection_queries(self, requests: Sequence[Request]) -> Tensor:
        """Normalised queries float32[n, width] of requests, to be compared with `function_keys`."""
        if not requests:
            return torch.zeros(0, self.model.head.config.width)
        return F.normalize(self.model.head.selection_query(self._states(requests)).float(), dim=-1)

    @torch.inference_mode()
    def function_keys(self, specs: Sequence[FunctionSpec]) -> Tensor:
        """Normalised keys float32[n, width] of functions: they depend on nothing but the function."""
        return self.retriever.keys(specs) if specs else torch.zeros(0, self.model.head.config.width)


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
