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
    """The settings and random streams of the rows of one batch."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = list(requests)
        self._streams = [np.random.Generator(np.random.PCG64(request.seed)) for request in requests]

    def __call__(self, logits: Tensor, rows: Sequence[int]) -> tuple[list[int], Tensor]:
        """logits: float32[n, V], -inf where forbidden, of the requests `rows`.

        Returns one token a row and the log-probabilities float32[n, V] before any truncation.
        """
        log_probabilities = logits.log_softmax(-1)
        chosen = logits.argmax(-1)
        for place, row in enumerate(rows):
            request = self._requests[row]
            if request.temperature > 0:
                chosen[place] = self._draw(logits[place], request, self._streams[row].random())
        return chosen.tolist(), log_probabilities

    @staticmethod
    def _draw(logits: Tensor, request: Request, uniform: float) -> int:
        """The token at `uniform` of the truncated distribution's cumulative sum, best first."""
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
