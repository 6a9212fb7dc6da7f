"""The trigger's temperature, fitted anew at the end of every stage on functions that were not trained on.

Any training moves the logits, and a temperature fitted before it means nothing afterwards. What is fitted here
is the model as it was saved; it never changes a weight, so it never changes which decision is likeliest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from multimodal_ai.data.dataset import MicroBatches
from multimodal_ai.data.messages import DataError
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.models.multimodal_model import MultimodalModel
from multimodal_ai.training.config import TrainConfig
from multimodal_ai.utils.calibration import fit_temperature, negative_log_likelihood
from multimodal_ai.utils.logger import get_logger

logger = get_logger(__name__)


def calibrate_trigger(model: MultimodalModel, config: TrainConfig, tokenizer: Tokenizer) -> float:
    """The temperature for the trigger's logits, from the first `calibration.samples` of `calibration.sources`.

    Raises DataError where no sample lists a function, so that there is no decision to compare with.
    """
    calibration = config.calibration
    micro = min(config.batch.micro_size, calibration.samples)
    image = config.data.image.model_copy(update={"augment": None})
    data = config.data.model_copy(update={"sources": calibration.sources, "image": image})
    batches = MicroBatches(data, tokenizer, seed=0, global_size=micro, micro_size=micro)
    logits, labels = [], []
    device = next(model.parameters()).device
    with torch.inference_mode():
        for number in range(-(-calibration.samples // micro)):
            batch = batches[number]
            # the trigger reads the first position alone
            start, one = batch.target_ids[:, :1], torch.ones_like(batch.target_lengths)
            batch = replace(batch, target_ids=start, target_lengths=one)
            known = batch.trigger >= 0
            trigger = model(batch.to(device)).scores.trigger.float().cpu()
            logits.append(trigger[known].numpy())
            labels.append(batch.trigger[known].numpy())
    scores, truth = np.concatenate(logits)[: calibration.samples], np.concatenate(labels)[: calibration.samples]
    if not len(truth):
        raise DataError(f"calibration.sources ({', '.join(calibration.sources)}): no sample lists functions")
    temperature = fit_temperature(scores, truth)
    before, after = (negative_log_likelihood(scores, truth, t) for t in (1.0, temperature))
    logger.info(
        "trigger: temperature %.2f from %d samples, loss %.3f instead of %.3f", temperature, len(truth), after, before
    )
    return temperature
