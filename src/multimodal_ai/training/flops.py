"""FLOPs of training on one batch: what the model needs, padding apart, for the MFU.

A multiply-add counts as two. Linears are counted over the tokens that pass through them, attention over
the pairs of query and key that see each other; norms and activations are left out. Backward costs twice
the forward; a frozen part has none, which leaves out the gradient that passes through it.
"""

from __future__ import annotations

from multimodal_ai.data.packing import IGNORED, Batch
from multimodal_ai.models.describe import multiply_adds
from multimodal_ai.models.layers import BlockConfig
from multimodal_ai.models.multimodal_model import MultimodalModel


class TrainingFlops:
    """Callable: `flops(batch)` is the forward and backward cost of a micro-batch. Make it before sharding."""

    def __init__(self, model: MultimodalModel) -> None:
        self.config = model.config
        self._linear = {part: multiply_adds(module) for part, module in model.parts().items()}
        self._trained = {
            part: 3.0 if any(p.requires_grad for p in module.parameters()) else 1.0
            for part, module in model.parts().items()
        }

    def __call__(self, batch: Batch) -> float:
        return sum(flops * self._trained[part] for part, flops in self.forward(batch).items())

    def forward(self, batch: Batch) -> dict[str, float]:
        """FLOPs of a forward pass by part."""
        config, linear = self.config, self._linear
        patches = batch.grids.prod(-1).double()
        source = batch.source_lengths.double()
        texts = batch.text_lengths.double()
        target = (batch.labels != IGNORED).sum(1).double()
        if batch.card_index.shape[1]:
            cards = (texts[batch.card_index.clamp(min=0)] * (batch.card_index >= 0)).sum(1)
        else:
            cards = source * 0
        context = source + cards
        if config.fusion.kind == "projection":
            visual = float(patches.sum()) / config.fusion.merge**2
        else:
            visual = float(len(patches) * config.fusion.latents)
        once = float(source.sum() + texts.sum())  # a card's keys and values are made once for all samples
        decoder = config.decoder
        cross = 2 * decoder.layers * config.text.width * decoder.kv_heads * decoder.head_width
        tokens = float(target.sum())
        return {
            "vision": 2 * linear["vision"] * float(patches.sum()) + _attention(config.vision, patches @ patches),
            "fusion": 2 * linear["fusion"] * visual,
            "text": 2 * linear["text"] * once + _attention(config.text, source @ context + texts @ texts),
            "decoder": 2 * ((linear["decoder"] - cross) * tokens + cross * once)
            + _attention(decoder, target @ target / 2 + target @ context),
            "head": 2.0 * linear["head"] * len(source),
            "embedding": 2.0 * config.vocab_size * config.text.width * tokens,
        }


def _attention(config: BlockConfig, pairs: object) -> float:
    """Both products of attention in all layers, for so many pairs of query and key."""
    return 4.0 * config.layers * config.heads * config.head_width * float(pairs)  # type: ignore[arg-type]
