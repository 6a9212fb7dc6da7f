"""Function calls: whether, which, with what, and how far the model's confidence can be trusted.

The engine is asked as a user would ask, choice left to the model. A call is judged exactly as it would be
executed: nothing is repaired. A call that the model began and the engine held back, because it was cut
short or did not fit its schema, counts against `schema_valid` like one that was let through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from multimodal_ai.data.messages import Message, Sample
from multimodal_ai.evaluation import metrics
from multimodal_ai.evaluation.call_metrics import (
    ArgumentCounts,
    NamedCall,
    as_named_calls,
    calls_equal,
    hallucinated_arguments,
)
from multimodal_ai.evaluation.common import (
    Example,
    Generator,
    SuiteResult,
    calls_of,
    chosen,
    expected_trigger,
    generate_all,
    question_of,
    source_of,
    split_at_reference,
    to_request,
)
from multimodal_ai.functions.schema import FunctionSpec, canonical_json, validate_arguments
from multimodal_ai.inference.requests import Call, Reply, Request


def run(engine: Generator, samples: Iterable[Sample], batch_size: int = 32, max_tokens: int = 256) -> SuiteResult:
    """Ask every sample that lists functions, and compare decision, function and arguments.

    Returns:
        Metrics over samples where a call is expected: `call_exact` (all calls with all arguments),
        `image_call_exact` (the same where an image is given), `function_exact` (names only),
        `missed_call_rate`, `selection_recall@1`, `@5`, `selection_mrr`, `argument_*`.
        Over all others: `false_call_rate`. Over emitted calls: `schema_valid`, `hallucinated_rate`,
        `call_ece`. Of the head's decision: `trigger_auroc`, `trigger_auprc` and `trigger_brier` (call or
        not), `trigger_macro_f1`, `trigger_ece`, `trigger_accuracy` (four classes),
        `trigger_fpr_at_95_recall`.

    Raises:
        ValueError: where no sample lists functions.
    """
    asked = chosen(samples, lambda sample: bool(sample.specs), "calls")
    pairs = [to_request(sample, max_tokens=max_tokens) for sample in asked]
    replies = generate_all(engine, [request for request, _ in pairs], batch_size, "Calling functions")
    result = SuiteResult()
    special = getattr(getattr(engine, "tokenizer", None), "special", None)
    judged = [
        _Judged(sample, request, reference, reply, reply.token_ids.count(special.call) if special else 0)
        for sample, (request, reference), reply in zip(asked, pairs, replies, strict=True)
    ]
    result.examples = [item.example() for item in judged]
    _score_calls(judged, result)
    _score_arguments(judged, result)
    _score_trigger(judged, result)
    _score_selection(judged, result)
    result.metrics["count"] = float(len(judged))
    return result


class _Judged:
    """One sample with its reply, compared."""

    def __init__(self, sample: Sample, request: Request, reference: Message, reply: Reply, begun: int) -> None:
        self.sample, self.request, self.reply = sample, request, reply
        self.before = split_at_reference(sample)[0]
        self.specs = {spec.name: spec for spec in sample.specs}
        self.expected_text = reference.text
        self.expected = calls_of(reference)
        self.given = as_named_calls(reply.calls)
        self.trigger = expected_trigger(sample, reference)
        self.exact = calls_equal(self.given, self.expected)
        self.problems = [problem_of(call, self.specs) for call in self.given]
        # What the engine held back itself, because it was cut short or invalid, was emitted by the model too.
        self.problems += ["a call was cut short or refused"] * (begun - len(self.given))

    @property
    def should_call(self) -> bool:
        return bool(self.expected)

    def context(self) -> str:
        """Everything in words that the model could take a value from."""
        return "\n".join(message.text for message in self.before)

    def confidence(self) -> float | None:
        """Of the least certain call; of the decision where nothing was called."""
        if self.reply.calls:
            return min(call.confidence for call in self.reply.calls)
        return 1 - self.reply.trigger["call"] if self.reply.trigger else None

    def example(self) -> Example:
        return Example(
            suite="calls",
            question=question_of(self.before),
            expected=self.expected_text,
            given=self.reply.content,
            correct=self.exact,
            images=list(self.sample.images),
            expected_calls=[{"name": call.name, "arguments": dict(call.arguments)} for call in self.expected],
            calls=[describe_call(call) for call in self.reply.calls],
            confidence=self.confidence(),
            trigger=dict(self.reply.trigger) if self.reply.trigger else None,
            source=source_of(self.sample),
            note="; ".join(problem for problem in self.problems if problem),
        )


def problem_of(call: NamedCall, specs: dict[str, FunctionSpec]) -> str:
    """Why a call could not be executed; empty where it could."""
    spec = specs.get(call.name)
    if spec is None:
        return f"unknown function {call.name}"
    try:
        canonical_json(call.arguments)
    except ValueError as error:
        return f"{call.name}: {error}"
    return "; ".join(
        f"{call.name}{error.path}: expected {error.expected}, got {error.got}"
        for error in validate_arguments(spec, dict(call.arguments))
    )


def describe_call(call: Call) -> dict[str, Any]:
    """A call as plain data, with confidence, and source and confidence of every argument."""
    return {
        "name": call.name,
        "arguments": dict(call.arguments),
        "confidence": call.confidence,
        "sources": {name: asdict(source) for name, source in call.sources.items()},
    }


def _score_calls(judged: Sequence[_Judged], result: SuiteResult) -> None:
    calling = [item for item in judged if item.should_call]
    others = [item for item in judged if not item.should_call]
    seeing = [item for item in calling if item.sample.images]
    sources = [source_of(item.sample) for item in calling]
    result.add_proportions("call_exact", [item.exact for item in calling], sources)
    result.add_proportion("image_call_exact", [item.exact for item in seeing])
    result.add_proportion("function_exact", [_names(item.given) == _names(item.expected) for item in calling])
    result.add_proportion("missed_call_rate", [not item.given for item in calling])
    result.add_proportion("false_call_rate", [bool(item.given) for item in others])
    result.add_proportion("schema_valid", [not problem for item in judged for problem in item.problems])
    pairs = [(value, item.exact) for item in judged if item.given and (value := item.confidence()) is not None]
    result.judgements["call"] = pairs
    result.metrics["call_ece"] = metrics.expected_calibration_error(*_columns(pairs))


def _score_arguments(judged: Sequence[_Judged], result: SuiteResult) -> None:
    counts, made_up, total = ArgumentCounts(), 0, 0
    for item in judged:
        schemas = {name: spec.parameters for name, spec in item.specs.items()}
        if item.should_call:
            counts.add(item.given, item.expected, schemas)
        found, of = hallucinated_arguments(item.given, item.expected, item.context(), schemas, item.request.today)
        made_up, total = made_up + found, total + of
    result.metrics |= counts.metrics()
    result.add_proportion("hallucinated_rate", [True] * made_up + [False] * (total - made_up))


def _score_trigger(judged: Sequence[_Judged], result: SuiteResult) -> None:
    truth: list[str] = []
    shares: list[dict[str, float]] = []
    for item in judged:
        if item.trigger is not None and item.reply.trigger is not None:
            truth.append(item.trigger)
            shares.append(dict(item.reply.trigger))
    add_trigger_scores(result, truth, shares, "trigger_")


def add_trigger_scores(
    result: SuiteResult, truth: Sequence[str], shares: Sequence[dict[str, float]], prefix: str = "", suffix: str = ""
) -> None:
    """Add how well the four probabilities of each decision agree with the right class."""
    predicted = [max(share, key=share.__getitem__) for share in shares]
    top = [min(max(share.values()), 1.0) for share in shares]
    right = [guess == label for guess, label in zip(predicted, truth, strict=True)]
    call = [share.get("call", 0.0) for share in shares]
    is_call = [label == "call" for label in truth]
    result.judgements["trigger"] = list(zip(top, right, strict=True))
    result.judgements["trigger_call"] = list(zip(call, is_call, strict=True))
    result.add_proportion(f"{prefix}accuracy{suffix}", right)
    found = {
        "auroc": metrics.auroc(is_call, call),
        "auprc": metrics.auprc(is_call, call),
        "brier": metrics.brier(is_call, call),
        "fpr_at_95_recall": metrics.false_positive_rate_at_recall(is_call, call),
        "macro_f1": metrics.macro_f1(truth, predicted),
        "ece": metrics.expected_calibration_error(top, right),
    }
    result.metrics |= {f"{prefix}{name}{suffix}": value for name, value in found.items()}


def _score_selection(judged: Sequence[_Judged], result: SuiteResult) -> None:
    rankings, wanted = [], []
    for item in judged:
        if item.should_call and item.reply.selection:
            ordered = sorted(item.reply.selection, key=lambda pair: -pair[1])
            rankings.append([name for name, _ in ordered if name in item.specs])
            wanted.append([call.name for call in item.expected])
    found = metrics.selection_ranks(rankings, wanted)
    result.metrics |= {
        "selection_recall@1": metrics.recall_at_k(found, 1),
        "selection_recall@5": metrics.recall_at_k(found, 5),
        "selection_mrr": metrics.mean_reciprocal_rank(found),
    }


def _names(calls: Sequence[NamedCall]) -> Counter[str]:
    return Counter(call.name for call in calls)


def _columns(pairs: Sequence[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [value for value, _ in pairs], [flag for _, flag in pairs]
