"""What is fitted anew at the end of every stage, on functions that were not trained on.

The trigger's temperature, and how much the dual encoder's cosine and the word overlap are worth when functions are
searched: on the functions of the training the cosine knows more than it does on those of a user. Any training
moves the scores, and what was fitted before means nothing afterwards. What is fitted here is the model as it was
saved; no weight is changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from multimodal_ai.data.dataset import MicroBatches
from multimodal_ai.data.messages import DataError
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.models.multimodal_model import MultimodalModel
from multimodal_ai.training.config import TrainConfig
from multimodal_ai.utils.calibration import fit_mixture, fit_temperature, negative_log_likelihood
from multimodal_ai.utils.logger import get_logger

logger = get_logger(__name__)

Floats = NDArray[np.floating]


def calibrate(model: MultimodalModel, config: TrainConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Values for `ProcessingConfig`, from the first `calibration.samples` of `calibration.sources`.

    `trigger_temperature` from samples that list functions, `retrieval_weights` from those that hide them
    (`functions.hidden`). Raises DataError where there is neither.
    """
    calibration = config.calibration
    micro = min(config.batch.micro_size, calibration.samples)
    image = config.data.image.model_copy(update={"augment": None})
    data = config.data.model_copy(update={"sources": calibration.sources, "image": image})
    batches = MicroBatches(data, tokenizer, seed=0, global_size=micro, micro_size=micro)
    device = next(model.parameters()).device
    logits: list[Floats] = []
    labels: list[NDArray[np.integer]] = []
    features: list[Floats] = []  # of each search, cosine and word overlap of its candidates
    targets: list[Floats] = []
    with torch.inference_mode():
        for number in range(-(-calibration.samples // micro)):
            batch = batches[number]
            # the head reads the first position alone
            start, one = batch.target_ids[:, :1], torch.ones_like(batch.target_lengths)
            batch = replace(batch, target_ids=start, target_lengths=one)
            out, known, rows = model(batch.to(device)), batch.trigger >= 0, batch.retrieval_row
            logits.append(out.scores.trigger.float().cpu()[known].numpy())
            labels.append(batch.trigger[known].numpy())
            if not len(rows):
                continue
            among = batch.retrieval_candidates
            keys = model.head.card_keys(out.pooled_texts)
            cosines = model.head.similarity(out.scores.state[rows.to(device)], keys).cpu()[:, among]
            both = torch.stack((cosines, batch.retrieval_lexical[rows][:, among]), dim=-1)
            features += list(both.numpy())
            targets += list(batch.retrieval[rows][:, among].numpy())
    values: dict[str, Any] = {}
    scores, truth = np.concatenate(logits), np.concatenate(labels)
    if len(truth):
        temperature = values["trigger_temperature"] = fit_temperature(scores, truth)
        before, after = (negative_log_likelihood(scores, truth, t) for t in (1.0, temperature))
        fitted = f"temperature {temperature:.2f} from {len(truth)} samples"
        logger.info("trigger: %s, loss %.3f instead of %.3f", fitted, after, before)
    if features:
        cosine, overlap = values["retrieval_weights"] = fit_mixture(features, targets)
        logger.info("search: %.2f cosine + %.2f word overlap, from %d samples", cosine, overlap, len(features))
    if not values:
        raise DataError(f"calibration.sources ({', '.join(calibration.sources)}): no sample lists functions")
    return values
