"""Held-out losses inside the training loop, one source at a time.

The same objective and the same rendering as in training, on the first samples of each source in a fixed
order, without augmentation: two evaluations of one model give the same numbers.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from multimodal_ai.data.dataset import MicroBatches
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.models.multimodal_model import MultimodalModel
from multimodal_ai.training.config import TrainConfig
from multimodal_ai.training.losses import TrainingObjective
from multimodal_ai.training.metrics import Evaluation


class HeldOutLosses:
    """Evaluation hook: mean losses as `<source>/<term>`, for every term that has labels there."""

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer) -> None:
        self.batches: dict[str, MicroBatches] = {}
        micro = min(config.batch.micro_size, config.eval.samples)
        for name, source in config.eval.sources.items():
            data = config.data.model_copy(
                update={"sources": {name: source}, "image": config.data.image.model_copy(update={"augment": None})}
            )
            self.batches[name] = MicroBatches(data, tokenizer, seed=0, global_size=micro, micro_size=micro)
        self.count = -(-config.eval.samples // micro)

    def __call__(self, step: int, model: nn.Module) -> Evaluation:
        """Means over the held-out samples. The model comes in eval mode, and without gradients."""
        objective = TrainingObjective(cast(MultimodalModel, model))
        device = next(model.parameters()).device
        metrics: dict[str, float] = {}
        for name, batches in self.batches.items():
            sums: dict[str, float] = {}
            counts: dict[str, float] = {}
            with torch.no_grad():
                for number in range(self.count):
                    batch = batches[number]
                    for term, count in objective.counts(batch).items():
                        counts[term] = counts.get(term, 0.0) + count
                    for term, value in objective(batch.to(device)).items():
                        sums[term] = sums.get(term, 0.0) + float(value)
            metrics.update({f"{name}/{term}": sums[term] / counts[term] for term in sums if counts[term]})
        return Evaluation(metrics)
