"""What all suites share: their result, the examples they keep, and how a sample becomes a request.

A suite asks the engine exactly what a user would ask: the conversation before the last assistant turn. That
turn is the reference and is never part of the request. Suites see the engine only through the small
interfaces below.
"""

from __future__ import annotations

import datetime
import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from multimodal_ai.data.messages import ImagePart, Message, Sample
from multimodal_ai.evaluation.call_metrics import NamedCall, as_named_calls
from multimodal_ai.evaluation.metrics import Proportion, accuracy
from multimodal_ai.functions.schema import FunctionSpec
from multimodal_ai.inference.requests import Reply, Request
from multimodal_ai.utils.logger import progress

if TYPE_CHECKING:
    import numpy as np
    import torch

T = TypeVar("T")
R = TypeVar("R")


class Generator(Protocol):
    """What answers requests in batches."""

    def generate(self, requests: Sequence[Request]) -> Sequence[Reply]: ...


class Scorer(Protocol):
    """What tells how likely given replies are: a sum of log-probabilities in nats for each."""

    def score(self, requests: Sequence[Request], replies: Sequence[Any]) -> Sequence[Any]: ...


class Selector(Protocol):
    """What places requests and functions in one space; rows are of length 1."""

    @property
    def selection_weights(self) -> tuple[float, float]: ...

    def selection_queries(self, requests: Sequence[Request]) -> torch.Tensor | np.ndarray: ...

    def function_keys(self, specs: Sequence[FunctionSpec]) -> torch.Tensor | np.ndarray: ...


class Embedder(Protocol):
    """What places images and texts in one space; rows are of length 1."""

    def embed_images(self, images: Sequence[Any]) -> torch.Tensor | np.ndarray: ...

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor | np.ndarray: ...


@dataclass
class Example:
    """One judged sample, with all that a report shows of it."""

    suite: str
    question: str
    expected: str
    given: str
    correct: bool
    images: list[Any] = field(default_factory=list)
    expected_calls: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)  # name, arguments, confidence, sources
    confidence: float | None = None
    trigger: dict[str, float] | None = None
    source: str = ""
    note: str = ""


@dataclass
class SuiteResult:
    """What a suite found.

    Attributes:
        metrics: name to value; NaN where the data cannot define it.
        examples: every judged sample, in the order of the data.
        intervals: 95% confidence interval of those metrics that are proportions.
        counts: number of cases behind those proportions.
        judgements: pairs (confidence, right or wrong) by what was judged, for calibration plots.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    judgements: dict[str, list[tuple[float, bool]]] = field(default_factory=dict)

    def add_proportion(self, name: str, flags: Sequence[bool]) -> Proportion:
        """Store the share of True under `name`, with its interval."""
        share = accuracy(flags)
        self.metrics[name], self.counts[name] = share.value, share.count
        if share.count:
            self.intervals[name] = (share.low, share.high)
        return share

    def add_proportions(self, name: str, flags: Sequence[bool], sources: Sequence[str]) -> None:
        """Store the share overall and, where there are several sources, for each as `name/source`."""
        self.add_proportion(name, flags)
        for source in sorted(set(sources) - {""}):
            self.add_proportion(
                f"{name}/{source}", [flag for flag, of in zip(flags, sources, strict=True) if of == source]
            )


def split_at_reference(sample: Sample) -> tuple[list[Message], Message]:
    """The conversation before the last assistant turn, and that turn.

    Raises:
        ValueError: where no assistant turn is there to compare with.
    """
    for position in range(len(sample.messages) - 1, -1, -1):
        if sample.messages[position].role == "assistant":
            return list(sample.messages[:position]), sample.messages[position]
    raise ValueError("a sample for evaluation needs an assistant turn to compare with, and has none")


def to_request(sample: Sample, **options: Any) -> tuple[Request, Message]:
    """The request that a user would send, and the reference; `options` go to `Request`.

    Images that stand after the reference are left out with their messages. "Tomorrow" is counted from `meta.today`.
    """
    before, reference = split_at_reference(sample)
    shown = sum(isinstance(part, ImagePart) for message in before for part in message.parts)
    today = sample.meta.get("today")
    request = Request(
        messages=[message.model_dump(exclude_none=True) for message in before],
        tools=sample.specs,
        images=list(sample.images[:shown]),
        today=datetime.date.fromisoformat(today) if today else None,
        **options,
    )
    return request, reference


def question_of(messages: Sequence[Message]) -> str:
    """The text of the last user turn."""
    return next((message.text for message in reversed(messages) if message.role == "user"), "")


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last user message of a conversation in plain form."""
    return next((str(message["content"]) for message in reversed(messages) if message["role"] == "user"), "")


def source_of(sample: Sample) -> str:
    """Where a sample comes from, as its recipe wrote it."""
    return str(sample.meta.get("source", ""))


def calls_of(message: Message) -> list[NamedCall]:
    """The calls of a turn."""
    return as_named_calls(message.tool_calls or ())


def expected_trigger(sample: Sample, reference: Message) -> str | None:
    """The decision that is right: what the data says, else call or answer; None without functions."""
    if not sample.specs:
        return None
    return str(sample.meta.get("trigger") or ("call" if reference.tool_calls else "answer"))


def in_batches(items: Sequence[T], size: int, description: str) -> Iterator[Sequence[T]]:
    """Slices of at most `size` items, with a progress bar that counts items."""
    with progress() as bar:
        task = bar.add_task(description, total=len(items))
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            yield batch
            bar.advance(task, len(batch))


def generate_all(engine: Generator, requests: Sequence[Request], batch_size: int, description: str) -> list[Reply]:
    """All replies, asked for in batches."""
    replies: list[Reply] = []
    for batch in in_batches(requests, batch_size, description):
        found = engine.generate(list(batch))
        if len(found) != len(batch):
            raise ValueError(f"the engine gave {len(found)} replies to {len(batch)} requests")
        replies += found
    return replies


def spread_rows(count: int, limit: int | None) -> list[int]:
    """At most `limit` of `count` row numbers in order, the same ones every time."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1 row, got {limit}")
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(random.Random(0).sample(range(count), limit))


def spread(items: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` of the items in order, the same ones every time."""
    return [items[row] for row in spread_rows(len(items), limit)]


def take_each(ask: Callable[[Sequence[T]], Sequence[R]], batch: Sequence[T]) -> list[R | str]:
    """The answer to every item of a batch; the reason where the model cannot take an item (too long).

    Suites with their own data meet requests and functions beyond a model's limits: they count as failed, and
    the others of the batch are asked again without them.
    """
    try:
        return list(ask(batch))
    except ValueError as error:  # also what a process that shares the work is told of another one's error
        if len(batch) == 1:
            return [str(error)]
    half = len(batch) // 2
    return [*take_each(ask, batch[:half]), *take_each(ask, batch[half:])]


def ask_each(
    ask: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T], batch_size: int, description: str
) -> list[R | str]:
    """As `take_each`, in batches and with a progress bar."""
    return [answer for batch in in_batches(items, batch_size, description) for answer in take_each(ask, batch)]


def chosen(samples: Iterable[Sample], wanted: Callable[[Sample], bool], suite: str) -> list[Sample]:
    """The samples a suite can judge; an error where there are none."""
    everything = list(samples)
    found = [sample for sample in everything if wanted(sample)]
    if not found:
        tasks = ", ".join(sorted({sample.task for sample in everything})) or "none"
        raise ValueError(
            f"suite {suite}: none of the {len(everything)} samples can be judged by it (tasks found: {tasks}); "
            "give this suite a data set of its kind"
        )
    return found


_ARTICLES = {"a", "an", "the"}
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_PUNCTUATION = re.compile(r"((?<=\d)[.,/:-](?=\d)|(?<!\S)[-+](?=\d))|[^\w\s%]")  # group 1 stays
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS)}


def normalise_answer(text: str) -> str:
    """A short answer without case, articles and outer punctuation, with number words as digits.

    A decimal point, a sign and a slash inside a number stay, so that `3.5` and `35` differ.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = _PUNCTUATION.sub(lambda match: match[1] or " ", folded)
    words = [_DIGITS.get(word, word) for word in folded.split()]
    return " ".join(word for word in words if word not in _ARTICLES) or " ".join(words)
