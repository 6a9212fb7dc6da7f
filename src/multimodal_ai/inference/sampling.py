"""Choosing the next token: greedy, temperature, top-k and nucleus sampling, with one seed a request.

Every row has its own settings and its own random numbers, so what a request gets does not depend on what
else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from multimodal_ai.inference.requests import Request


class Sampler:
    """The settings and the random stream of one request."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._stream = np.random.Generator(np.random.PCG64(request.seed))

    def draw(self, logits: Tensor) -> int:
        """logits: float32[V]. The token at a random place of the truncated distribution's cumulative sum."""
        request, uniform = self._request, self._stream.random()
        sorted_logits, order = (logits / request.temperature).sort(descending=True, stable=True)
        probabilities = sorted_logits.softmax(-1).double()
        if request.top_k:
            probabilities[request.top_k :] = 0
        cumulative = probabilities.cumsum(0)
        # The nucleus: the smallest set of best tokens that reaches top_p (Holtzman et al., arXiv 1904.09751).
        keep = (cumulative - probabilities < request.top_p * cumulative[-1]) & (probabilities > 0)
        cumulative = (probabilities * keep).cumsum(0)
        place = int(torch.searchsorted(cumulative, uniform * float(cumulative[-1]), right=True))
        return int(order[min(place, int(keep.sum()) - 1)])

    @property
    def greedy(self) -> bool:
        """Whether it always takes the likeliest token."""
        return self._request.temperature <= 0


def sample(logits: Tensor, samplers: Sequence[Sampler]) -> tuple[list[int], Tensor]:
    """logits: float32[n, V], -inf where forbidden; one sampler a row.

    Returns one token a row and the log-probabilities float32[n, V] before any truncation.
    """
    chosen = logits.argmax(-1).tolist()
    for row, sampler in enumerate(samplers):
        if not sampler.greedy:
            chosen[row] = sampler.draw(logits[row])
    return chosen, logits.log_softmax(-1)
