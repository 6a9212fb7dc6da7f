"""Retrieval: out of more functions than fit, the few that go into the context and the grammar.

The request, read without any function, is matched with the key of every card as the head does it: dual
encoder plus word overlap. A key depends on its card alone and is kept by the function's hash, so a catalogue
is encoded once. What is left out here can be neither listed nor called, except that a function the caller
names in `tool_choice` always stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from multimodal_ai.data.examples import asked_by
from multimodal_ai.data.messages import Sample
from multimodal_ai.data.packing import pad_rows
from multimodal_ai.data.rendering import Renderer
from multimodal_ai.functions.grammar import normalize_tool_choice
from multimodal_ai.functions.lexical import lexical_scores
from multimodal_ai.functions.schema import FunctionSpec
from multimodal_ai.inference.cache import ContentCache, weights_version
from multimodal_ai.inference.requests import Request
from multimodal_ai.models.multimodal_model import MultimodalModel

LIMIT, KEPT = 64, 16  # more functions than LIMIT: the best KEPT remain
CACHED_BYTES = 32 << 20  # 65,536 keys at a head width of 128
CARDS_AT_ONCE = 256


class Retriever:
    """Chooses functions for requests. `states` gives float[n, D], how each request looks without functions."""

    def __init__(
        self,
        model: MultimodalModel,
        renderer: Renderer,
        states: Callable[[Sequence[Request]], Tensor],
        cached_bytes: int = CACHED_BYTES,
    ) -> None:
        self.model, self.renderer, self.states = model, renderer, states
        self.cache = ContentCache(cached_bytes)

    def narrowed(self, request: Request) -> Request:
        """The request with its best KEPT functions in their order, where it has more than LIMIT.

        Raises DataError for messages or functions that cannot be used, GrammarError for an unknown choice.
        """
        if len(request.tools) <= LIMIT:
            return request
        sample = Sample.from_request(request.messages, request.tools, request.images)
        scores = self.scores([request], sample.specs, [asked_by(sample.messages)])[0]
        choice = normalize_tool_choice(request.tool_choice, sample.specs)
        named = set(choice.names) if 0 < len(choice.names) < len(sample.specs) else set()
        marks = torch.tensor([spec.name in named for spec in sample.specs], device=scores.device)
        scores = scores.masked_fill(marks, float("inf"))
        best = sorted(scores.topk(max(KEPT, len(named))).indices.tolist())
        return replace(request, tools=[sample.specs[place] for place in best])

    @torch.inference_mode()
    def scores(self, requests: Sequence[Request], specs: Sequence[FunctionSpec], asked: Sequence[str]) -> Tensor:
        """Logits float[n, F] of every function for every request, whose last user turn is `asked`."""
        bare = [replace(request, tools=(), tool_choice="none") for request in requests]
        state = self.states(bare)
        lexical = torch.tensor([lexical_scores(text, specs) for text in asked], device=state.device)
        return self.model.head.match(state, self.keys(specs), lexical)

    @torch.inference_mode()
    def keys(self, specs: Sequence[FunctionSpec]) -> Tensor:
        """Keys float[F, width] of functions; those not cached are encoded now."""
        self.cache.use_weights(weights_version(self.model))
        found = {spec.hash: self.cache.get("key", spec.hash) for spec in specs}
        fresh = [spec for spec in specs if found[spec.hash] is None]
        known = {name: key for name, key in found.items() if key is not None}
        for start in range(0, len(fresh), CARDS_AT_ONCE):
            part = fresh[start : start + CARDS_AT_ONCE]
            for spec, key in zip(part, self._encode(part), strict=True):
                known[spec.hash] = key.clone()  # not a view that keeps the others alive
                self.cache.put("key", spec.hash, known[spec.hash])
        return torch.stack([known[spec.hash] for spec in specs])

    def _encode(self, specs: Sequence[FunctionSpec]) -> Tensor:
        cards = [self.renderer.card(spec) for spec in specs]
        device = self.model.device
        ids = torch.from_numpy(pad_rows([card.ids for card in cards], 0)).to(device)
        space = torch.from_numpy(pad_rows([card.space for card in cards], 0).astype(bool)).to(device)
        lengths = torch.tensor([len(card.ids) for card in cards], device=device)
        return self.model.head.card_keys(self.model.encode_texts(ids, space, lengths).pooled)
