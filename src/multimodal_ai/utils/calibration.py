"""Numbers that are fitted to what a model says on data it was not trained on.

A temperature makes stated probabilities mean what they say and never changes what is chosen (Guo et al., arXiv
1706.04599); the weights of a mixture say how much each of two scores is worth. Nothing here knows models: arrays
in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

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


def fit_mixture(
    features: Sequence[NDArray[np.floating]], targets: Sequence[NDArray[np.floating]]
) -> tuple[float, float]:
    """The two weights, none below 0, under whose sum of weighted scores the right candidates are likeliest.

    features: for each choice float[F, 2], two scores of each of its candidates; targets: for each float[F], the share
    of each candidate in what is right, adding up to 1. A conditional logit (McFadden, 1973): the likelihood is
    concave, so it has one maximum. Raises ValueError without a choice and for scores that are not finite.
    """
    if not features or len(features) != len(targets):
        raise ValueError(f"{len(features)} choices and {len(targets)} targets: expected as many of both, 1 at least")
    if not all(np.isfinite(one).all() for one in features):
        raise ValueError("scores hold NaN or infinities; no weights can mend that")
    # each score in units of its own spread, for a search that is as fast in both directions
    spread = np.maximum(np.concatenate(features).std(axis=0), 1e-6)
    scaled = [np.asarray(one, dtype=np.float64) / spread for one in features]

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        total, slope = 0.0, np.zeros(2)
        for scores, target in zip(scaled, targets, strict=True):
            logits = scores @ weights
            total -= float(target @ log_softmax(logits))
            slope += (softmax(logits) - target) @ scores
        return total / len(scaled), slope / len(scaled)

    # beyond 50 spreads one score alone decides, and the likelihood may have no maximum
    found = minimize(loss, np.ones(2), jac=True, method="L-BFGS-B", bounds=[(0.0, 50.0)] * 2).x
    return float(found[0] / spread[0]), float(found[1] / spread[1])
