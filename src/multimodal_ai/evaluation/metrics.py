"""Metrics as pure functions of arrays: text, retrieval, triggers, selection, calibration.

Nothing here knows a model, a file or a suite. A metric that the data cannot define (no items, or one class
only where two are compared) is NaN and never a flattering 0 or 1; ties in a ranking count against the
system, so that constant scores earn nothing. Calls and their arguments are compared in `call_metrics.py`.

Array letters: `Q` queries, `G` gallery items, `C` classes, `n` judged items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import norm
from sklearn import metrics as sklearn_metrics

Floats = NDArray[np.float64]
NAN = math.nan


@dataclass(frozen=True)
class Proportion:
    """A share of successes with its Wilson confidence interval."""

    value: float
    low: float
    high: float
    count: int


def bits_per_byte(negative_log_likelihoods: ArrayLike, byte_counts: ArrayLike) -> float:
    """Bits a model needs for one byte of text, over a whole set of texts.

    Args:
        negative_log_likelihoods: [n] sums in nats, one for each text.
        byte_counts: [n] lengths of the texts in UTF-8 bytes.
    """
    nats, counts = _floats(negative_log_likelihoods), _floats(byte_counts)
    _same_length(nats, counts, "negative log-likelihoods", "byte counts")
    total = float(counts.sum())
    return float(nats.sum()) / math.log(2) / total if total > 0 else NAN


def wilson_interval(successes: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927); (0, 1) where nothing was counted."""
    if not 0 <= successes <= count:
        raise ValueError(f"successes must lie between 0 and the count of {count}, got {successes}")
    if count == 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + confidence / 2))
    share = successes / count
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == count else centre + half)


def accuracy(correct: ArrayLike, confidence: float = 0.95) -> Proportion:
    """The share of True in `correct` [n], with its interval."""
    flags = np.asarray(correct, dtype=bool).reshape(-1)
    low, high = wilson_interval(int(flags.sum()), flags.size, confidence)
    return Proportion(float(flags.mean()) if flags.size else NAN, low, high, flags.size)


def ranks(similarity: ArrayLike, relevant: ArrayLike) -> NDArray[np.int64]:
    """The rank (from 1) of each query's best relevant item; a tie with an irrelevant item counts as lost.

    Args:
        similarity: [Q, G], higher is nearer.
        relevant: bool[Q, G]; every query needs at least one relevant item.
    """
    scores, wanted = _floats(similarity), np.asarray(relevant, dtype=bool)
    if scores.ndim != 2 or scores.shape != wanted.shape:
        raise ValueError(f"similarity {scores.shape} and relevance {wanted.shape} must be one [Q, G] shape")
    if not wanted.any(axis=1).all():
        lost = int(np.flatnonzero(~wanted.any(axis=1))[0])
        raise ValueError(f"query {lost} has no relevant item in the gallery")
    best = np.where(wanted, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    return 1 + ((scores >= best) & ~wanted).sum(axis=1)


def recall_at_k(rank: ArrayLike, k: int) -> float:
    """The share of queries whose rank is at most `k`."""
    values = np.asarray(rank)
    return float((values <= k).mean()) if values.size else NAN


def mean_reciprocal_rank(rank: ArrayLike) -> float:
    """The mean of 1 / rank."""
    values = np.asarray(rank, dtype=np.float64)
    return float((1 / values).mean()) if values.size else NAN


def retrieval_metrics(
    similarity: ArrayLike, labels: Sequence[object] | None = None, k: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall@k and mean reciprocal rank in both directions for paired images and texts.

    Args:
        similarity: [n, n], row i an image, column j a text; pair i belongs together.
        labels: [n] what pair i shows; pairs of one label are right answers for each other (a second
            photo of the same article is no mistake). Without it only the pair itself is right.

    Returns:
        `image_to_text_recall@1`, …, `text_to_image_mrr`.
    """
    scores = _floats(similarity)
    if scores.size == 0:
        scores = scores.reshape(0, 0)
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(f"similarity must be square, one row for each pair; got {scores.shape}")
    codes = np.arange(len(scores))
    if labels is not None:
        if len(labels) != len(scores):
            raise ValueError(f"{len(labels)} labels for {len(scores)} pairs")
        index: dict[object, int] = {}
        codes = np.array([index.setdefault(label, len(index)) for label in labels], dtype=np.int64)
    relevant = codes[:, None] == codes[None, :]
    found: dict[str, float] = {}
    for name, matrix in (("image_to_text", scores), ("text_to_image", scores.T)):
        rank = ranks(matrix, relevant)
        found |= {f"{name}_recall@{each}": recall_at_k(rank, each) for each in k}
        found[f"{name}_mrr"] = mean_reciprocal_rank(rank)
    return found


def selection_ranks(rankings: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> list[float]:
    """The rank of every wanted function among those not wanted; infinite where it was not ranked at all.

    `rankings[i]` holds names from most to least likely, `gold[i]` the names that request i calls. The
    other wanted functions of a request are skipped, so that two right ones are both at rank 1.
    """
    if len(rankings) != len(gold):
        raise ValueError(f"{len(rankings)} rankings for {len(gold)} requests")
    found: list[float] = []
    for ranking, wanted in zip(rankings, gold, strict=True):
        for name in dict.fromkeys(wanted):
            others = [other for other in ranking if other == name or other not in wanted]
            found.append(others.index(name) + 1 if name in others else math.inf)
    return found


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve; NaN unless both classes occur."""
    truth, values = _binary(labels, scores)
    return float(sklearn_metrics.roc_auc_score(truth, values)) if _both(truth) else NAN


def auprc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the precision-recall curve (average precision); NaN unless both classes occur."""
    truth, values = _binary(labels, scores)
    return float(sklearn_metrics.average_precision_score(truth, values)) if _both(truth) else NAN


def false_positive_rate_at_recall(labels: ArrayLike, scores: ArrayLike, recall: float = 0.95) -> float:
    """The least false-positive rate at which at least `recall` of the positives are found."""
    truth, values = _binary(labels, scores)
    if not _both(truth):
        return NAN
    false_positives, found, _ = sklearn_metrics.roc_curve(truth, values, drop_intermediate=False)
    return float(false_positives[found >= recall].min())


def macro_f1(labels: Sequence[str], predictions: Sequence[str]) -> float:
    """F1 averaged over the classes that occur in the labels; a class only predicted lowers the others."""
    if len(labels) != len(predictions):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels")
    if not labels:
        return NAN
    classes = sorted(set(labels))
    return float(
        sklearn_metrics.f1_score(list(labels), list(predictions), labels=classes, average="macro", zero_division=0)
    )


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability diagram: its mean confidence, the share that was right, and its size."""

    confidence: float
    accuracy: float
    count: int


def reliability(confidences: ArrayLike, correct: ArrayLike, bins: int = 15) -> list[ReliabilityBin]:
    """Bins of equal width over [0, 1]; empty ones are left out."""
    values, flags = _floats(confidences).reshape(-1), np.asarray(correct, dtype=bool).reshape(-1)
    _same_length(values, flags, "confidences", "judgements")
    if values.size and (values.min() < 0 or values.max() > 1):
        raise ValueError(f"confidences must lie in [0, 1], got {values.min():g} to {values.max():g}")
    place = np.clip(np.ceil(values * bins).astype(int) - 1, 0, bins - 1)  # bins are (low, high]
    found = []
    for each in range(bins):
        inside = place == each
        if inside.any():
            found.append(ReliabilityBin(float(values[inside].mean()), float(flags[inside].mean()), int(inside.sum())))
    return found


def expected_calibration_error(confidences: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """The mean gap between confidence and accuracy over bins of equal width, weighted by their size."""
    found = reliability(confidences, correct, bins)
    total = sum(each.count for each in found)
    return sum(abs(each.confidence - each.accuracy) * each.count for each in found) / total if total else NAN


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The mean squared error of the probability of the positive class."""
    truth, values = _binary(labels, probabilities)
    return float(((values - truth) ** 2).mean()) if truth.size else NAN


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature that makes softmax(logits / temperature) most likely (Guo et al. 2017).

    Args:
        logits: [n, C].
        labels: int[n], the right class.

    Returns:
        A temperature from 0.01 to 100; 1 where there is nothing to fit on.
    """
    values, truth = _floats(logits), np.asarray(labels, dtype=np.int64).reshape(-1)
    if values.size == 0:
        return 1.0
    if values.ndim != 2 or len(values) != len(truth):
        raise ValueError(f"logits {values.shape} must be [n, C] with one label each, got {truth.shape[0]}")
    if truth.min() < 0 or truth.max() >= values.shape[1]:
        raise ValueError(f"labels must lie between 0 and {values.shape[1] - 1}")
    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(values * math.exp(-log_temperature), axis=1)[rows, truth].mean())

    limit = math.log(100.0)
    return math.exp(float(minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x))


def _floats(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a metric got NaN or infinite values; look for where the model produced them")
    return array


def _same_length(left: NDArray, right: NDArray, left_name: str, right_name: str) -> None:
    if left.shape != right.shape:
        raise ValueError(f"{left_name} {left.shape} and {right_name} {right.shape} must have one shape")


def _binary(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    truth, values = np.asarray(labels, dtype=bool).reshape(-1), _floats(scores).reshape(-1)
    _same_length(truth, values, "labels", "scores")
    return truth.astype(np.int64), values


def _both(truth: NDArray[np.int64]) -> bool:
    return bool(truth.size) and truth.min() != truth.max()
