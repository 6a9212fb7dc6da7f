"""From a request to what the decoder reads: rendered, encoded, with the head's first scores.

Images, function cards and whole conversations are kept by content hash, so that what was encoded before costs
nothing, be it for another request or for another choice of the same one. The encoder reads a conversation both
ways: one more turn changes every state of it, and only its images and cards stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from multimodal_ai.data.examples import Example, function_inputs
from multimodal_ai.data.image_processor import ImageProcessor
from multimodal_ai.data.messages import Sample
from multimodal_ai.data.packing import Batch, collate, standalone_texts
from multimodal_ai.data.processing import ProcessingConfig
from multimodal_ai.data.rendering import USER, Renderer, Source, Target
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.inference.cache import ContentCache, weights_version
from multimodal_ai.inference.requests import Request
from multimodal_ai.models.decoder import Context
from multimodal_ai.models.function_head import FunctionScores
from multimodal_ai.models.fusion import VisualTokens
from multimodal_ai.models.multimodal_model import MultimodalModel
from multimodal_ai.models.text_encoder import StandaloneTexts

KeysValues = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Prefilled:
    """A request encoded, at the decoder's first position, to be answered any number of times. Never changed.

    memory, written: per decoder layer the keys and values of the context, float[M, K, E], and of the first
    position, float[1, K, E]; last: float[D] its state; trigger: float[4], selection: float[F + 1] and presence:
    float[F, P] the head's logits; parameters: float[F, P, D]; copy_keys: float[S, width]; source_ids,
    source_role: int[S]; source_space, copyable: bool[S].
    """

    memory: KeysValues
    written: KeysValues
    last: Tensor
    trigger: Tensor
    selection: Tensor
    presence: Tensor
    parameters: Tensor
    copy_keys: Tensor
    source_ids: Tensor
    source_role: Tensor
    source_space: Tensor
    copyable: Tensor


class RequestEncoder:
    """Renders and encodes requests for one model. `example` may be called from any thread, the rest from one."""

    def __init__(
        self, model: MultimodalModel, tokenizer: Tokenizer, processing: ProcessingConfig, cache: ContentCache
    ) -> None:
        self.model, self.tokenizer, self.cache = model, tokenizer, cache
        self.patch_values = 3 * processing.image.patch_size**2
        self.renderer = Renderer(tokenizer, processing.rendering)
        self.images = ImageProcessor(processing.image.model_copy(update={"augment": None}))

    def example(self, request: Request) -> Example:
        """The request as the training's renderer makes it, without an answer.

        Raises DataError, ImageError, SchemaError or TooLong for what cannot be used.
        """
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

    def batch(self, examples: Sequence[Example]) -> Batch:
        """The examples side by side, on the model's device."""
        return collate(examples, self.patch_values, self.tokenizer.space).to(self.model.device)

    def context(self, examples: Sequence[Example], batch: Batch) -> Context:
        """The context of every example of a batch, with images and cards from the cache where they are there."""
        self.cache.use_weights(weights_version(self.model))
        images = {image.key: image for example in examples for image in example.images}
        texts = [card.key for card in standalone_texts(examples)]  # both in the batch's order
        visual = self._visual(list(images), batch) if images else None
        standalone = self._texts(texts, batch) if texts else None
        return self.model.encode(batch, visual, standalone)

    def _visual(self, keys: Sequence[str], batch: Batch) -> VisualTokens:
        found = [self.cache.get("image", key) for key in keys]
        fresh = [number for number, tokens in enumerate(found) if tokens is None]
        if fresh:
            visual, _ = self.model.encode_images(batch.patches[fresh], batch.grids[fresh])
            for row, number in enumerate(fresh):
                found[number] = visual.tokens[row][visual.valid[row]]
                self.cache.put("image", keys[number], found[number])
        tokens, valid = _padded(found)
        return VisualTokens(tokens, valid)

    def _texts(self, keys: Sequence[str], batch: Batch) -> StandaloneTexts:
        found: list[StandaloneTexts | None] = [self.cache.get("card", key) for key in keys]
        fresh = [number for number, text in enumerate(found) if text is None]
        if fresh:
            lengths = batch.text_lengths[fresh]
            longest = int(lengths.max())
            ids, space = batch.text_ids[fresh, :longest], batch.text_space[fresh, :longest]
            encoded = self.model.encode_texts(ids, space, lengths)
            for row, number in enumerate(fresh):
                text = _text_row(encoded, row, int(lengths[row]))
                found[number] = text
                self.cache.put("card", keys[number], text)
        rows = [text for text in found if text is not None]
        states, valid = _padded([text.states for text in rows])
        layers = range(len(rows[0].keys_values))
        keys_values = [
            (
                _padded([text.keys_values[layer][0] for text in rows])[0],
                _padded([text.keys_values[layer][1] for text in rows])[0],
            )
            for layer in layers
        ]
        return StandaloneTexts(states, valid, torch.stack([text.pooled for text in rows]), keys_values)

    def scores(self, first: Tensor, context: Context, batch: Batch) -> tuple[FunctionScores, Tensor | None]:
        """What the head says at the first position, and the embeddings of the cards' parameters."""
        head, parameters = self.model.head, None
        if context.texts is not None:
            states, count = context.texts.states, batch.required.shape[-1]
            parameters = head.parameter_embeddings(states, batch.text_parameter, count)
        return head(first, context, parameters, batch.lexical, batch.required), parameters

    @torch.inference_mode()
    def states(self, requests: Sequence[Request]) -> Tensor:
        """float[n, D] the decision state of each request."""
        examples = [self.example(request) for request in requests]
        batch = self.batch(examples)
        context = self.context(examples, batch)
        _, first = self.model.decoder(self.model.embed_target(batch.target_ids), batch.target_lengths, context)
        return self.scores(first, context, batch)[0].state

    @torch.inference_mode()
    def prefill(self, examples: Sequence[Example]) -> list[Prefilled]:
        """Each example at the decoder's first position, encoded now or taken from the cache."""
        self.cache.use_weights(weights_version(self.model))
        keys = [_key(example) for example in examples]
        found = {key: self.cache.get("conversation", key) for key in dict.fromkeys(keys)}
        fresh = {key: example for key, example in zip(keys, examples, strict=True) if found[key] is None}
        if fresh:
            for key, prefilled in zip(fresh, self._prefill(list(fresh.values())), strict=True):
                found[key] = prefilled
                self.cache.put("conversation", key, prefilled)
        states = [found[key] for key in keys]
        return [state for state in states if state is not None]

    def _prefill(self, examples: Sequence[Example]) -> Iterable[Prefilled]:
        model, batch = self.model, self.batch(examples)
        context = self.context(examples, batch)
        memory = model.decoder.memory(context)
        start, ones = batch.target_ids[:, :1], torch.ones_like(batch.target_lengths)
        cache = model.decoder.new_cache(len(examples), 1, model.device, model.embedding.weight.dtype)
        states, first = model.decoder.step(model.embed_target(start), ones, memory, cache)
        scores, parameters = self.scores(first, context, batch)
        copy_keys = model.head.copy_key(context.states)
        for row, example in enumerate(examples):
            S, F = len(example.source.ids), len(example.cards)
            seen = context.key_valid[row]
            if parameters is None:
                listed = copy_keys.new_zeros(0, 0, states.shape[-1])
            else:
                listed = parameters[batch.card_index[row, :F]]
            yield Prefilled(
                memory=[(k[row][seen], v[row][seen]) for k, v in memory.keys_values],
                written=[(k[row].clone(), v[row].clone()) for k, v in zip(cache.keys, cache.values, strict=True)],
                last=states[row, 0].clone(),
                trigger=scores.trigger[row].clone(),
                selection=torch.cat((scores.selection[row, :F], scores.selection[row, -1:])),
                presence=scores.presence[row, :F].clone(),
                parameters=listed,
                copy_keys=copy_keys[row, :S].clone(),
                source_ids=batch.source_ids[row, :S].clone(),
                source_role=batch.source_role[row, :S].clone(),
                source_space=batch.source_space[row, :S].clone(),
                copyable=batch.copyable[row, :S].clone(),
            )


def _key(example: Example) -> str:
    """Hash of all that the model reads of an example."""
    source = example.source
    read = (source.ids, source.space, source.role, source.slots, example.lexical, example.required)
    named = ([image.key for image in example.images], [card.key for card in example.cards])
    return hashlib.sha256(repr((read, named)).encode()).hexdigest()


def _padded(rows: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """float[L, ...] of different lengths -> float[n, longest, ...] and which are real, bool[n, longest]."""
    present = [row for row in rows if row is not None]
    longest = max(len(row) for row in present)
    tensor = present[0].new_zeros(len(present), longest, *present[0].shape[1:])
    valid = torch.zeros(len(present), longest, dtype=torch.bool, device=tensor.device)
    for number, row in enumerate(present):
        tensor[number, : len(row)] = row
        valid[number, : len(row)] = True
    return tensor, valid


def _text_row(texts: StandaloneTexts, row: int, length: int) -> StandaloneTexts:
    """One of many texts, without padding, as tensors of its own."""
    keys_values = [(k[row, :length].clone(), v[row, :length].clone()) for k, v in texts.keys_values]
    valid = texts.valid[row, :length].clone()
    return StandaloneTexts(texts.states[row, :length].clone(), valid, texts.pooled[row].clone(), keys_values)
