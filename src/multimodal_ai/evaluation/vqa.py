"""Questions about images: the share answered right, over all and for each source.

An answer counts as right when it equals the reference after normalising case, articles, punctuation and
number words; nothing softer, so that a long answer which merely holds the right word is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable

from multimodal_ai.data.messages import Sample
from multimodal_ai.evaluation.common import (
    Example,
    Generator,
    SuiteResult,
    chosen,
    generate_all,
    normalise_answer,
    question_of,
    source_of,
    split_at_reference,
    to_request,
)


def run(engine: Generator, samples: Iterable[Sample], batch_size: int = 32, max_tokens: int = 32) -> SuiteResult:
    """Answer every sample of the task `vqa` greedily.

    Returns:
        Metrics `accuracy`, `accuracy/<source>` and `count`.

    Raises:
        ValueError: where no sample is a question about an image.
    """
    asked = chosen(samples, is_question, "vqa")
    pairs = [to_request(sample, max_tokens=max_tokens) for sample in asked]
    replies = generate_all(engine, [request for request, _ in pairs], batch_size, "Answering questions")
    result = SuiteResult()
    for sample, (request, reference), reply in zip(asked, pairs, replies, strict=True):
        expected = reference.text
        result.examples.append(
            Example(
                suite="vqa",
                question=question_of(split_at_reference(sample)[0]),
                expected=expected,
                given=reply.content,
                correct=normalise_answer(reply.content) == normalise_answer(expected),
                images=list(request.images),
                source=source_of(sample),
                note="cut at the token limit" if reply.finish_reason == "length" else "",
            )
        )
    result.add_proportions(
        "accuracy",
        [example.correct for example in result.examples],
        [example.source for example in result.examples],
    )
    result.metrics["count"] = float(len(asked))
    return result


def is_question(sample: Sample) -> bool:
    """Whether a sample asks about an image."""
    return sample.task == "vqa" and bool(sample.images)
