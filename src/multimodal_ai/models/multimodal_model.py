"""MultimodalModel: vision encoder, text encoder, fusion, decoder and function-calling head as one model.

`encode` makes the context, `decode` reads it, `forward` does both for training. The model takes ids,
patches and indices; it knows nothing of tokens, templates, data or losses. Placeholders and visual
tokens must agree in number: a mismatch raises before anything is computed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_ai.models.attention import to_device
from multimodal_ai.models.decoder import Context, Decoder, DecoderConfig
from multimodal_ai.models.function_head import FunctionCallingHead, FunctionScores, HeadConfig
from multimodal_ai.models.fusion import FusionConfig, VisualTokens, build_fusion
from multimodal_ai.models.layers import autocast_dtype, init_weights
from multimodal_ai.models.text_encoder import StandaloneTexts, TextConfig, TextEncoder
from multimodal_ai.models.vision_encoder import VisionConfig, VisionEncoder
from multimodal_ai.models.weights import Storage, load_weights, save_weights
from multimodal_ai.utils.config import ConfigModel

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
ROLES = ("card", "system", "user", "assistant", "result", "image")  # what a source token is part of


def activations(x: Tensor) -> Tensor:
    """x in the dtype of the activations: under autocast the residual stream is in the lower precision too."""
    return x.to(autocast_dtype(x.device) or x.dtype)


class ModelConfig(ConfigModel):
    """Everything that decides the shape of a model."""

    vocab_size: int
    vision: VisionConfig
    text: TextConfig
    decoder: DecoderConfig
    fusion: FusionConfig = FusionConfig()
    head: HeadConfig = HeadConfig()


class ModelInputs(Protocol):
    """What `forward` reads of a batch; `data.packing.Batch` is one.

    source_ids, source_role: int[B, S]; source_space: bool[B, S]; source_lengths: int[B]
    text_ids: int[U, L]; text_space: bool[U, L]; text_lengths: int[U]; text_parameter: int[U, L]
    card_index: int[B, F] into the texts, -1 none; lexical: float[B, F]; required: bool[B, F, P]
    patches: uint8[I, N, 3 * patch²]; grids: int[I, 2]; slots, slot_image, slot_token: int[n], where in the B * S
    places of the source an image's tokens stand, of which image, and which
    image_index: int[B, G] the images of a sample, -1 none; target_ids: int[B, T]; target_lengths: int[B]
    pair_image, pair_text: int[C] images and texts that belong together

    What decides over shapes stays in main memory, so that nothing waits for a device: lengths, grids, card_index.
    """

    source_ids: Tensor
    source_space: Tensor
    source_role: Tensor
    source_lengths: Tensor
    text_ids: Tensor
    text_space: Tensor
    text_lengths: Tensor
    text_parameter: Tensor
    card_index: Tensor
    lexical: Tensor
    required: Tensor
    patches: Tensor
    grids: Tensor
    slots: Tensor
    slot_image: Tensor
    slot_token: Tensor
    image_index: Tensor
    target_ids: Tensor
    target_lengths: Tensor
    pair_image: Tensor
    pair_text: Tensor


@dataclass
class ModelOutput:
    """decoder_states: float[B, T, D]; context; function scores; float[U, E] pooled standalone texts; embeddings of
    the pairs, float[C, E], normalised; visual: the visual tokens of the pairs' images.
    """

    decoder_states: Tensor
    context: Context
    scores: FunctionScores
    parameters: Tensor | None
    pooled_texts: Tensor
    image_embeddings: Tensor
    text_embeddings: Tensor
    visual: VisualTokens


class MultimodalModel(nn.Module):
    """See the module's docstring. Build with a config, or load with `from_pretrained`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.decoder.width != config.text.width:
            raise ValueError(
                f"decoder.width {config.decoder.width} and text.width {config.text.width} must be equal: "
                "they share one embedding"
            )
        self.config = config
        width = config.text.width
        self.input_scale = width**0.5 / 4  # embeddings are small for the output's sake, too small for a residual stream
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.source_features = nn.Embedding(len(ROLES) + 1, width)  # the last one: "a space stood before"
        self.vision = VisionEncoder(config.vision, config.head.width)
        self.text = TextEncoder(config.text, config.head.width)
        self.fusion = build_fusion(config.fusion, config.vision.width, config.text)
        self.decoder = Decoder(config.decoder, width)
        self.head = FunctionCallingHead(config.head, width, config.decoder.width, config.decoder.layers)
        self.contrastive_scale = nn.Parameter(torch.tensor(2.3))  # log inverse temperature (SigLIP)
        self.contrastive_bias = nn.Parameter(torch.tensor(-4.0))
        self.logit_scale = width**-0.5 * 16
        if not any(parameter.is_meta for parameter in self.parameters()):
            init_weights(self)

    # -- parts ------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, nn.Module]:
        """The parts by the names that configs use; together they hold every parameter but two scalars."""
        return {
            "vision": self.vision,
            "text": self.text,
            "fusion": self.fusion,
            "decoder": self.decoder,
            "head": self.head,
            "embedding": nn.ModuleList([self.embedding, self.source_features]),
        }

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """Every transformer block with its dotted name: units of checkpointing, compiling and sharding."""
        for part in ("vision", "text", "decoder"):
            for number, block in enumerate(cast(Any, self.get_submodule(part)).blocks):
                yield f"{part}.blocks.{number}", block

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    # -- encoding ---------------------------------------------------------------------------------------------

    def embed_source(self, ids: Tensor, space: Tensor, role: Tensor) -> Tensor:
        """int[B, S] ids, bool[B, S] "a space stood before", int[B, S] role -> float[B, S, D]."""
        features = self.source_features.weight
        x = self.embedding(ids) + F.embedding(role, features)
        return activations((x + space[..., None] * features[-1]) * self.input_scale)

    def encode_images(self, patches: Tensor, grids: Tensor) -> tuple[VisualTokens, Tensor]:
        """uint8[I, N, 3 * patch²], int[I, 2] -> visual tokens and normalised embeddings float[I, E]."""
        states, pooled = self.vision(patches, grids)
        return self.fusion.visual_tokens(states, grids), F.normalize(pooled.float(), dim=-1)

    def encode_texts(self, ids: Tensor, space: Tensor, lengths: Sequence[int] | Tensor) -> StandaloneTexts:
        """Function cards and captions, each alone: int[U, L], bool[U, L], and the length of each."""
        return self.text.encode_alone(self.embed_source(ids, space, torch.zeros_like(ids)), lengths)

    def encode(
        self,
        batch: ModelInputs,
        visual: VisualTokens | None = None,
        texts: StandaloneTexts | None = None,
    ) -> Context:
        """The context of every sample. `visual` and `texts` may come from a cache."""
        if not len(batch.slots) == len(batch.slot_image) == len(batch.slot_token):
            raise ValueError(
                f"{len(batch.slots)} slots, {len(batch.slot_image)} slot images and {len(batch.slot_token)} slot "
                "tokens: they must agree"
            )
        x = self.embed_source(batch.source_ids, batch.source_space, batch.source_role)
        if visual is not None:
            x = self.fusion.place(x, visual, batch.slots, batch.slot_image, batch.slot_token)
        has_cards = texts is not None and batch.card_index.shape[1] > 0
        listed = batch.card_index.tolist() if has_cards else None

        def mix(number: int, states: Tensor) -> Tensor:
            return self.fusion.mix(number, states, visual, batch.image_index)

        texts = texts if has_cards else None
        card_index = to_device(batch.card_index, x.device) if has_cards else None
        rows, packing = self.text(x, batch.source_lengths, texts, listed, mix if self.fusion.mixes else None)
        return Context.of(rows, packing, texts, listed, card_index)

    # -- decoding ---------------------------------------------------------------------------------------------

    def embed_target(self, ids: Tensor) -> Tensor:
        """int[B, T] -> float[B, T, D], what the decoder reads."""
        return activations(self.embedding(ids) * self.input_scale)

    def logits(self, states: Tensor) -> Tensor:
        """float[..., D] decoder states -> float32[..., V] over the shared embedding."""
        return F.linear(states * self.logit_scale, self.embedding.weight.to(states.dtype)).float()

    def forward(self, batch: ModelInputs) -> ModelOutput:
        """Teacher forcing over a padded batch.

        A batch without images or without standalone texts still runs those parts on a dummy whose result
        is multiplied by zero: on several ranks a skipped part would leave the others waiting for it.
        """
        patches, grids = batch.patches, batch.grids
        no_images, no_texts = patches.shape[0] == 0, batch.text_ids.shape[0] == 0
        merge = self.config.fusion.merge
        if no_images:
            patches = patches.new_zeros(1, merge**2, patches.shape[-1])
            grids = grids.new_full((1, 2), merge)
        visual, image_embeddings = self.encode_images(patches, grids)
        if no_texts:
            dummy = batch.text_ids.new_ones(1, 2)  # one token would make torch.compile compile a size of its own
            texts = self.encode_texts(dummy, dummy.bool(), [2])
            text_parameter = dummy - 2
        else:
            texts = self.encode_texts(batch.text_ids, batch.text_space, batch.text_lengths)
            text_parameter = batch.text_parameter
        context = self.encode(batch, visual, texts)
        states, first = self.decoder(self.embed_target(batch.target_ids), batch.target_lengths, context)
        parameters = self.head.parameter_embeddings(texts.states, text_parameter, max(batch.required.shape[-1], 1))
        scores = self.head(first, context, parameters, batch.lexical, batch.required)
        text_embeddings = F.normalize(texts.pooled.float(), dim=-1)
        if no_images or no_texts or context.card_index is None or not len(batch.pair_image):
            scores.trigger = scores.trigger + self._touch(visual.tokens, image_embeddings, texts.pooled, parameters)
        return ModelOutput(
            states,
            context,
            scores,
            parameters,
            texts.pooled,
            image_embeddings.index_select(0, batch.pair_image),
            text_embeddings.index_select(0, batch.pair_text),
            visual.of(batch.pair_image),
        )

    def _touch(self, *results: Tensor) -> Tensor:
        """Zero, with a path to the results given and to every parameter that a batch may leave idle."""
        idle = (*self.head.parameters(), self.contrastive_scale, self.contrastive_bias)
        # Times 0 each by itself: the gradients of scalars would otherwise be one tensor, and adding to one of
        # them in the next micro-batch would change all.
        return torch.stack([(tensor.float() * 0.0).sum() for tensor in (*results, *idle)]).sum()

    # -- files ------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path, storage: Storage = "float32") -> None:
        """Write config.json and model.safetensors, each aside first and then renamed. storage: see `models.weights`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.state_dict(), folder / WEIGHTS_FILE, storage)
        aside = folder / f".{CONFIG_FILE}.{os.getpid()}"
        try:
            aside.write_text(self.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
            os.replace(aside, folder / CONFIG_FILE)
        finally:
            aside.unlink(missing_ok=True)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> MultimodalModel:
        """Load what `save_pretrained` wrote. A missing file or a shape that differs raises ValueError."""
        folder = Path(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise ValueError(f"{folder}: no {name} here; give the folder of a trained model (runs/quickstart)")
        config = ModelConfig.model_validate(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")))
        with torch.device("meta"):
            model = cls(config)
        state = load_weights(folder / WEIGHTS_FILE, torch.device(device))
        own = dict(model.state_dict())
        wrong = sorted(set(own) ^ set(state)) or [n for n in own if own[n].shape != state[n].shape]
        if wrong:
            raise ValueError(f"{folder}: the weights do not fit {CONFIG_FILE}; first difference: {wrong[0]}")
        model.load_state_dict(state, assign=True)
        return model.eval()
