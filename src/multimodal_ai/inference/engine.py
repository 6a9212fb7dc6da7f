"""Engine: requests in, replies out. Batched generation with a cache, a grammar and the function head.

The context is encoded once per request and its keys and values are kept; a step writes one token, or all
tokens that the grammar forces, for every row that is not finished. Rows never see each other: a reply does
not depend on what else is in the batch. Every call that leaves parses, names a listed function and
validates. The renderer is the training's own.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from multimodal_ai.data.examples import Example
from multimodal_ai.data.image_processor import ProcessedImage
from multimodal_ai.data.messages import Message
from multimodal_ai.data.processing import ProcessingConfig
from multimodal_ai.data.rendering import RESULT, USER, Renderer, Source, Target
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions.copying import CopiedStrings
from multimodal_ai.functions.grammar import GrammarCompiler
from multimodal_ai.functions.provenance import mask_results
from multimodal_ai.functions.schema import FunctionSpec
from multimodal_ai.inference.attention_view import calls_with_attention
from multimodal_ai.inference.cache import ContentCache
from multimodal_ai.inference.decoding import DecodingBackend, TorchBackend, decoding_backend
from multimodal_ai.inference.encoding import Prefilled, RequestEncoder
from multimodal_ai.inference.reply_writer import ReplyWriter
from multimodal_ai.inference.requests import Call, Decision, Delta, Reply, Request
from multimodal_ai.inference.retrieval import LIMIT, Retriever
from multimodal_ai.inference.running_batch import RunningBatch
from multimodal_ai.inference.spelled import SpelledValues
from multimodal_ai.inference.steering import Steering
from multimodal_ai.models.function_head import TRIGGER_CLASSES
from multimodal_ai.models.multimodal_model import MultimodalModel

T = TypeVar("T")
CACHE_BYTES = 256 << 20


@dataclass(frozen=True)
class PreparedRequest:
    """A request that was read and checked; `example` is None where functions must be chosen first."""

    request: Request
    example: Example | None


class Engine:
    """A model with its tokenizer and processing, ready to answer.

    Not safe for use by several threads at once, but for `prepare`; `Scheduler` answers many threads with one engine.
    `cache_bytes` bounds what is kept of images, function cards and conversations. `backend` runs the decoder; PyTorch
    where none is given.
    """

    def __init__(
        self,
        model: MultimodalModel,
        tokenizer: Tokenizer,
        processing: ProcessingConfig | None = None,
        cache_bytes: int = CACHE_BYTES,
        backend: DecodingBackend | None = None,
    ) -> None:
        if model.config.vocab_size != tokenizer.vocab_size:
            raise ValueError(f"the model knows {model.config.vocab_size} tokens, the tokenizer {tokenizer.vocab_size}")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.processing = processing or ProcessingConfig()
        self.backend: DecodingBackend = backend or TorchBackend(self.model)
        self.cache = ContentCache(cache_bytes)
        self.encoder = RequestEncoder(self.model, tokenizer, self.processing, self.cache)
        self.renderer = self.encoder.renderer
        self.strings: Literal["free", "copied"] = "free"  # of requests that do not say, see `Request`
        self.grammars = GrammarCompiler(tokenizer)
        self.retriever = Retriever(self.model, self.renderer, self.encoder.states, self.processing.retrieval_weights)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str = "cpu",
        cache_bytes: int = CACHE_BYTES,
        backend: str = "auto",
        weights: str | None = None,
    ) -> Engine:
        """Load a folder that training wrote: weights, configs and tokenizer. backend, weights: `decoding_backend`."""
        folder = Path(folder)
        model = MultimodalModel.from_pretrained(folder, device)
        decoder = decoding_backend(model, backend, weights)
        return cls(model, Tokenizer.load(folder), ProcessingConfig.load(folder), cache_bytes, decoder)

    # -- answering --------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer all requests in one batch."""
        replies: dict[int, Reply] = {}
        for number, delta in self._run(requests):
            if delta.reply is not None:
                replies[number] = delta.reply
        return [replies[number] for number in range(len(requests))]

    def stream(self, request: Request) -> Iterator[Delta]:
        """Answer one request piece by piece; the last piece holds the whole reply."""
        for _, delta in self._run([request]):
            yield delta

    def _run(self, requests: Sequence[Request]) -> Iterator[tuple[int, Delta]]:
        batch: RunningBatch[int] = self.new_batch()
        self.join(batch, [(number, self.prepare(request)) for number, request in enumerate(requests)])
        while batch.rows:
            for number, delta in batch.write():
                if isinstance(delta, ValueError):
                    raise delta
                yield number, delta
            batch.advance()

    # -- its parts, for a caller whose requests come one by one -----------------------------------------------

    def prepare(self, request: Request) -> PreparedRequest:
        """Read and check a request: decode its images, render it. May be called from any thread.

        Raises DataError, ImageError, SchemaError or TooLong for what cannot be used.
        """
        many = len(request.tools) > LIMIT
        return PreparedRequest(request, None if many else self.encoder.example(request))

    def new_batch(self) -> RunningBatch[Any]:
        """An empty batch, for requests to join."""
        return RunningBatch(self.model, self.backend, self.tokenizer.space)

    def join(self, batch: RunningBatch[T], prepared: Sequence[tuple[T, PreparedRequest]]) -> None:
        """Encode requests, in one pass, and put them into a batch under their tags.

        Raises GrammarError for an unknown choice or functions that do not fit; then none has joined.
        """
        if not prepared:
            return
        chosen = [
            (tag, one) if one.example is not None else (tag, self.prepare(self.retriever.narrowed(one.request)))
            for tag, one in prepared
        ]
        examples = [one.example for _, one in chosen if one.example is not None]
        prefilled = self.encoder.prefill(examples)
        writers = [
            self._writer(one.request, example, state)
            for (_, one), example, state in zip(chosen, examples, prefilled, strict=True)
        ]
        for (tag, _), writer, state in zip(chosen, writers, prefilled, strict=True):
            batch.add(tag, writer, state)

    def _writer(self, request: Request, example: Example, prefilled: Prefilled) -> ReplyWriter:
        reply = self._decided(example, prefilled)
        presence: list[list[float]] = []
        if example.specs:
            present = prefilled.presence.sigmoid().tolist()
            presence = [present[place][: len(spec.parameter_names)] for place, spec in enumerate(example.specs)]
        selection = dict(reply.selection)
        today = request.today or datetime.date.today()
        spelled = SpelledValues(example.source, self.tokenizer, today)
        copied = None
        if (request.strings or self.strings) == "copied" and example.specs and not example.images:
            copied = CopiedStrings.of(request.messages, example.specs, today)
        steering = Steering.start(
            request, example.specs, self.grammars, self.tokenizer, reply.trigger, selection, presence, spelled, copied
        )
        (opening,) = self.renderer.start()
        answers_result = RESULT in example.source.role
        seen = partial(calls_with_attention, self.encoder, example, today)
        return ReplyWriter(
            request, steering, reply, self.tokenizer, opening, answers_result, self._without_results, seen
        )

    def _decided(self, example: Example, prefilled: Prefilled) -> Reply:
        """The reply as far as the head decides it before the first token."""
        cards = sum(len(card.ids) for card in example.cards)
        reply = Reply(usage={"prompt_tokens": len(example.source.ids) + cards})
        if example.source.dropped_turns:
            reply.usage["dropped_turns"] = example.source.dropped_turns
        if example.specs:
            probabilities = (prefilled.trigger / self.processing.trigger_temperature).softmax(-1).tolist()
            reply.trigger = dict(zip(TRIGGER_CLASSES, probabilities, strict=True))
            shares = prefilled.selection[:-1].softmax(-1).tolist()
            names = [spec.name for spec in example.specs]
            reply.selection = sorted(zip(names, shares, strict=True), key=lambda pair: -pair[1])
        return reply

    def _without_results(self, request: Request) -> Decision:
        """The head's decision with every result hidden."""
        messages, images = mask_results(request.messages, request.images)
        example = self.encoder.example(replace(request, messages=messages, images=images))
        reply = self._decided(example, self.encoder.prefill([example])[0])
        assert reply.trigger is not None
        return Decision(reply.trigger["call"], reply.selection[0][0] if reply.selection else None)

    # -- scoring and embedding --------------------------------------------------------------------------------

    @torch.inference_mode()
    def score(self, requests: Sequence[Request], replies: Sequence[str | dict[str, Any]]) -> list[float]:
        """Log-probability in nats of given replies (a text, or an assistant message), end included."""
        unlimited = Renderer(self.tokenizer, self.processing.rendering.model_copy(update={"max_target": 1 << 20}))
        examples = []
        for request, reply in zip(requests, replies, strict=True):
            example = self.encoder.example(request)
            message = {"role": "assistant", "content": reply} if isinstance(reply, str) else reply
            turn = Message.model_validate(message)
            example.target = unlimited.target(turn, example.specs, example.source)
            examples.append(example)
        batch = self.encoder.batch(examples)
        context = self.encoder.context(examples, batch)
        states, _ = self.model.decoder(self.model.embed_target(batch.target_ids), batch.target_lengths, context)
        log_probabilities = self.model.logits(states).log_softmax(-1)
        real = batch.labels >= 0
        picked = log_probabilities.gather(-1, batch.labels.clamp(min=0)[..., None]).squeeze(-1)
        return (picked * real).double().sum(1).tolist()

    def attention(self, request: Request, reply: Reply) -> list[Call]:
        """The calls of a reply to a request, each with what the model looked at for every argument: one pass.

        The same as asking for it with the request; the calls may be those of another model, or of nobody.
        """
        request = self.retriever.narrowed(request)
        today = request.today or datetime.date.today()
        return calls_with_attention(self.encoder, self.encoder.example(request), today, reply)

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Any]) -> Tensor:
        """Normalised embeddings float32[n, E] of images, decoded or not, in the space of `embed_texts`."""
        processed = [image if isinstance(image, ProcessedImage) else self.encoder.images(image) for image in images]
        example = Example(Source([0], [False], [USER]), Target(ids=[0]), images=processed)
        batch = self.encoder.batch([example])
        embedded = self.model.encode_images(batch.patches, batch.grids)[1]
        return embedded[batch.image_index[0]]

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Normalised embeddings float32[n, E] of texts."""
        cards = tuple(self.renderer.text_card(text, key=text) for text in texts)
        none = [[False]] * len(cards)
        example = Example(Source([0], [False], [USER]), Target(ids=[0]), cards, [0.0] * len(cards), none)
        example.presence = [[-1]] * len(cards)
        batch = self.encoder.batch([example])
        encoded = self.model.encode_texts(batch.text_ids, batch.text_space, batch.text_lengths)
        return F.normalize(encoded.pooled.float(), dim=-1)[batch.card_index[0]]

    # -- selection --------------------------------------------------------------------------------------------

    @property
    def selection_weights(self) -> tuple[float, float]:
        """What cosine of query and key, and word overlap, are multiplied with when functions are searched: as fitted
        by calibration, or else the head's own.
        """
        head = self.model.head
        own = head.selection_scale.exp().item(), head.lexical_scale.item()
        return self.processing.retrieval_weights or own

    @torch.inference_mode()
    def selection_queries(self, requests: Sequence[Request]) -> Tensor:
        """Normalised queries float32[n, width] of requests, to be compared with `function_keys`."""
        if not requests:
            return torch.zeros(0, self.model.head.config.width)
        return F.normalize(self.model.head.selection_query(self.encoder.states(requests)).float(), dim=-1)

    @torch.inference_mode()
    def function_keys(self, specs: Sequence[FunctionSpec]) -> Tensor:
        """Normalised keys float32[n, width] of functions: they depend on nothing but the function."""
        return self.retriever.keys(specs) if specs else torch.zeros(0, self.model.head.config.width)
