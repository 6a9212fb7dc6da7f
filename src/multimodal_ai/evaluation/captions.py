"""Which of many captions belongs to an image, by how likely the decoder finds each of them.

Images are put into galleries of `choices` with as many different captions, the same ones for every model, and
every caption is scored for every image of its gallery. A caption alone says much about its own likelihood (short
ones are likely whatever the image), so two other scores stand beside the plain one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from multimodal_ai.data.messages import Sample
from multimodal_ai.evaluation.common import (
    Example,
    Scorer,
    SuiteResult,
    chosen,
    in_batches,
    source_of,
    split_at_reference,
    to_request,
)
from multimodal_ai.evaluation.retrieval import is_pair


def run(engine: Scorer, samples: Iterable[Sample], batch_size: int = 32, choices: int = 100) -> SuiteResult:
    """Score every caption of a gallery for every image in it.

    Returns:
        `accuracy`: the right caption has the highest log-probability; `accuracy_per_byte`: the same divided by the
        caption's bytes; `accuracy_relative`: the share of this image in the caption's probability over all images of
        the gallery; `choices`, `chance` and `count`.

    Raises:
        ValueError: where fewer than two captions differ.
    """
    pairs = chosen(samples, is_pair, "captions")
    result, scores = SuiteResult(), []
    for gallery in galleries([split_at_reference(sample)[1].text.strip() for sample in pairs], choices):
        scores.append((gallery, _likelihoods(engine, [pairs[row] for row in gallery], batch_size)))
    found: dict[str, list[bool]] = {"accuracy": [], "accuracy_per_byte": [], "accuracy_relative": []}
    for gallery, nats in scores:
        texts = [split_at_reference(pairs[row])[1].text.strip() for row in gallery]
        sizes = np.array([len(text.encode()) for text in texts])
        relative = nats - np.logaddexp.reduce(nats, axis=0)
        for name, values in zip(found, (nats, nats / sizes, relative), strict=True):
            found[name] += (values.argmax(1) == np.arange(len(gallery))).tolist()
        for place, row in enumerate(gallery):
            best = int(nats[place].argmax())
            result.examples.append(
                Example(
                    suite="captions",
                    question="Which caption belongs to this image?",
                    expected=texts[place],
                    given=texts[best],
                    correct=best == place,
                    images=[pairs[row].images[0]],
                    source=source_of(pairs[row]),
                    note=f"{nats[place, best]:.1f} nats, the right caption {nats[place, place]:.1f}",
                )
            )
    sources = [source_of(pairs[row]) for gallery, _ in scores for row in gallery]
    for name, flags in found.items():
        result.add_proportions(name, flags, sources)
    size = min(len(gallery) for gallery, _ in scores)
    result.metrics |= {"choices": float(size), "chance": 1 / size, "count": float(len(sources))}
    return result


def galleries(texts: Sequence[str], choices: int) -> list[list[int]]:
    """Rows in galleries of `choices` different texts, drawn from a fixed seed; rows that fill no gallery are left out.

    With fewer different texts there is one gallery of them all.
    """
    order = random.Random(0).sample(range(len(texts)), len(texts))
    choices = min(choices, len(set(texts)))
    if choices < 2:
        raise ValueError("suite captions: a choice needs at least two different captions; give it more samples")
    full: list[list[int]] = []
    open_: list[dict[str, int]] = []  # text -> row
    for row in order:
        gallery = next((gallery for gallery in open_ if texts[row] not in gallery), None)
        if gallery is None:
            open_.append(gallery := {})
        gallery[texts[row]] = row
        if len(gallery) == choices:
            full.append(list(gallery.values()))
            open_.remove(gallery)
    return full


def _likelihoods(engine: Scorer, samples: Sequence[Sample], batch_size: int) -> NDArray[np.float64]:
    """Log-probabilities in nats, [image, caption]."""
    requests = [to_request(sample)[0] for sample in samples]
    texts = [split_at_reference(sample)[1].text.strip() for sample in samples]
    asked = [(request, text) for request in requests for text in texts]
    nats: list[float] = []
    for batch in in_batches(asked, batch_size, "Scoring captions"):
        nats += [float(value) for value in engine.score([one for one, _ in batch], [text for _, text in batch])]
    return np.array(nats).reshape(len(samples), len(samples))
