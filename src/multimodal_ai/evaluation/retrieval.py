"""Finding the text for an image and the image for a text, by the embeddings of both.

Samples with the same text are right answers for each other. The gallery is the set of samples itself, so a
number means nothing without its size, which stands beside it as `count`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_ai.data.messages import Sample
from multimodal_ai.evaluation.common import (
    Embedder,
    Example,
    SuiteResult,
    chosen,
    in_batches,
    source_of,
    split_at_reference,
)
from multimodal_ai.evaluation.metrics import retrieval_metrics


def run(
    engine: Embedder, samples: Iterable[Sample], batch_size: int = 64, k: Sequence[int] = (1, 5, 10)
) -> SuiteResult:
    """Embed every sample that has one image and a text, and rank both ways by cosine.

    Returns:
        Recall@k and mean reciprocal rank in both directions, `chance_recall@1`, and `count`.

    Raises:
        ValueError: where there are no such samples, or where embeddings are broken (NaN, wrong number).
    """
    pairs = chosen(samples, is_pair, "retrieval")
    texts = [split_at_reference(sample)[1].text.strip() for sample in pairs]
    images = [sample.images[0] for sample in pairs]
    image_rows = _embed(engine.embed_images, images, batch_size, "Embedding images")
    text_rows = _embed(engine.embed_texts, texts, batch_size, "Embedding texts")
    similarity = image_rows @ text_rows.T  # [n, n]
    result = SuiteResult(metrics=retrieval_metrics(similarity, texts, k))
    result.metrics["chance_recall@1"] = float(np.mean([texts.count(text) for text in texts])) / len(texts)
    result.metrics["count"] = float(len(pairs))
    for row, sample in enumerate(pairs):
        best = int(similarity[row].argmax())
        result.examples.append(
            Example(
                suite="retrieval",
                question="Which text belongs to this image?",
                expected=texts[row],
                given=texts[best],
                correct=texts[best] == texts[row],
                images=[images[row]],
                confidence=None,
                source=source_of(sample),
                note=f"similarity {similarity[row, best]:.2f}, of the right text {similarity[row, row]:.2f}",
            )
        )
    return result


def is_pair(sample: Sample) -> bool:
    """Whether a sample is one image and its text."""
    return sample.task == "caption" and len(sample.images) == 1


def _embed(embed: Any, items: Sequence[Any], batch_size: int, description: str) -> NDArray[np.float64]:
    """Rows of length 1, [n, D]."""
    rows = [np.asarray(embed(list(batch)), dtype=np.float64) for batch in in_batches(items, batch_size, description)]
    found = np.concatenate(rows)
    if found.ndim != 2 or len(found) != len(items):
        raise ValueError(f"{description}: expected {len(items)} rows, got an array of shape {found.shape}")
    length = np.linalg.norm(found, axis=1, keepdims=True)
    if not np.isfinite(length).all():
        bad = int(np.flatnonzero(~np.isfinite(length[:, 0]))[0])
        raise ValueError(f"{description}: row {bad} holds NaN or infinite values")
    return found / np.maximum(length, 1e-12)
