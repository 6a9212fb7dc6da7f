"""Temperature scaling: one number that makes stated probabilities mean what they say.

Dividing logits by a temperature changes how sure a classifier says it is, never what it chooses (Guo et al.,
arXiv 1706.04599). Nothing here knows models: logits and labels in, a number out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = 0.05, 20.0  # beyond, logits are perfect or worthless, and the likelihood has no minimum


def negative_log_likelihood(logits: NDArray[np.floating], labels: NDArray[np.integer], temperature: float) -> float:
    """Mean negative log-likelihood in nats of int[n] labels under float[n, C] logits / temperature."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    highest = scaled.max(axis=1, keepdims=True)
    total = highest[:, 0] + np.log(np.exp(scaled - highest).sum(axis=1))
    return float(np.mean(total - scaled[np.arange(len(labels)), labels]))


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer], tolerance: float = 1e-4) -> float:
    """The temperature in [0.05, 20] under which the labels are likeliest; relative error at most `tolerance`.

    logits: float[n, C], labels: int[n] in 0..C-1. Golden-section search on log T: the likelihood is concave
    in 1 / T, so it has one maximum. Raises ValueError without labels and for logits that are not finite.
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"logits {logits.shape} and labels {labels.shape}: expected [n, C] and [n], n at least 1")
    if not np.isfinite(logits).all():
        raise ValueError("logits hold NaN or infinities; no temperature can mend that")
    golden = (math.sqrt(5) - 1) / 2
    low, high = math.log(LOWEST), math.log(HIGHEST)

    def loss(x: float) -> float:
        return negative_log_likelihood(logits, labels, math.exp(x))

    inner, outer = high - golden * (high - low), low + golden * (high - low)
    at_inner, at_outer = loss(inner), loss(outer)
    while high - low > tolerance:
        if at_inner <= at_outer:
            high, outer, at_outer = outer, inner, at_inner
            inner = high - golden * (high - low)
            at_inner = loss(inner)
        else:
            low, inner, at_inner = inner, outer, at_outer
            outer = low + golden * (high - low)
            at_outer = loss(outer)
    return math.exp((low + high) / 2)
