"""Knowing when to call: relevance on BFCL, and all four decisions on services that training never showed.

Only the head's decision is looked at, after its temperature, at the first position: nothing is generated.
Requests that the model cannot take are left out and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from multimodal_ai.data.messages import Sample
from multimodal_ai.data.recipes import sgd
from multimodal_ai.data.recipes.common import RecipeContext, Row, read_json_xz, read_jsonl_xz
from multimodal_ai.evaluation import bfcl, metrics
from multimodal_ai.evaluation.calls import add_trigger_scores
from multimodal_ai.evaluation.common import (
    Example,
    Generator,
    SuiteResult,
    ask_each,
    expected_trigger,
    last_user_text,
    question_of,
    split_at_reference,
    spread,
    to_request,
)
from multimodal_ai.functions.lexical import lexical_scores
from multimodal_ai.inference.requests import Request

RELEVANT, IRRELEVANT = "live_multiple", "live_irrelevance"

Shares = dict[str, float]


def run(engine: Generator, context: RecipeContext, batch_size: int = 32) -> SuiteResult:
    """Read the decision on BFCL and on the dialogues of SGD's dev split whose services are all unseen.

    Returns:
        `relevance_auroc`: p(call) of BFCL live_multiple against live_irrelevance; `relevance_bm25_auroc`: the
        best word overlap instead. On SGD `auroc_unseen`, `auprc_unseen`, `brier_unseen` and
        `fpr_at_95_recall_unseen` (call or not), `macro_f1_unseen`, `accuracy_unseen` and `ece_unseen` (four
        classes). `relevance_count`, `count_unseen`, `too_long`.
    """
    result = SuiteResult()
    _add_relevance(engine, result, context, batch_size)
    _add_unseen(engine, result, context, batch_size)
    return result


def _add_relevance(engine: Generator, result: SuiteResult, context: RecipeContext, batch_size: int) -> None:
    cases = [case for category in (RELEVANT, IRRELEVANT) for case in spread(bfcl.load(category), context.limit)]
    decisions = _decisions(engine, [case.request() for case in cases], batch_size, "Deciding on BFCL")
    labels, learned, lexical = [], [], []
    for case, shares in zip(cases, decisions, strict=True):
        if shares is not None:
            labels.append(case.category == RELEVANT)
            learned.append(shares.get("call", 0.0))
            specs = bfcl.specs_of(case.functions)
            lexical.append(max(lexical_scores(last_user_text(case.turns[0]), specs), default=0.0))
            result.examples.append(
                _example(str(case.turns[0][-1]["content"]), "call" if labels[-1] else "cannot", shares, case.category)
            )
    result.metrics["relevance_auroc"] = metrics.auroc(labels, learned)
    result.metrics["relevance_bm25_auroc"] = metrics.auroc(labels, lexical)
    result.metrics["relevance_count"] = float(len(labels))
    result.metrics["relevance_too_long"] = float(len(cases) - len(labels))
    result.judgements["relevance"] = list(zip(learned, labels, strict=True))


def _add_unseen(engine: Generator, result: SuiteResult, context: RecipeContext, batch_size: int) -> None:
    services = dialogue_services(context)
    unseen = unseen_services(context)
    samples = held_out(context, lambda row: services[row["meta"]["dialogue"]] <= unseen)
    pairs = [to_request(sample, max_tokens=1) for sample in samples]
    decisions = _decisions(engine, [request for request, _ in pairs], batch_size, "Deciding on unseen services")
    truth, given = [], []
    for sample, (_, reference), shares in zip(samples, pairs, decisions, strict=True):
        expected = expected_trigger(sample, reference)
        if shares is not None and expected is not None:
            truth.append(expected)
            given.append(shares)
            result.examples.append(_example(question_of(split_at_reference(sample)[0]), expected, shares, "sgd"))
    add_trigger_scores(result, truth, given, "", "_unseen")
    result.metrics["count_unseen"] = float(len(truth))
    result.metrics["too_long_unseen"] = float(len(samples) - len(truth))


def _decisions(
    engine: Generator, requests: Sequence[Request], batch_size: int, description: str
) -> list[Shares | None]:
    """The probabilities of the four classes; {} without functions, None where the model cannot take the request."""
    for request in requests:
        request.max_tokens = 1
    replies = ask_each(engine.generate, requests, batch_size, description)
    return [None if isinstance(reply, str) else dict(reply.trigger or {}) for reply in replies]


def _example(question: str, expected: str, shares: Shares, source: str) -> Example:
    given = max(shares, key=shares.__getitem__, default="answer")
    return Example("trigger", question, expected, given, given == expected, trigger=shares or None, source=source)


# -- services that training never showed ----------------------------------------------------------------------


def unseen_services(context: RecipeContext) -> frozenset[str]:
    """Services of SGD's dev split that have no function in its training split; nine of its 17 are known."""
    known, found = (
        {entry["name"].split(".")[0] for entry in read_json_xz(context.file(f"sgd_tools_{part}.json.xz"))}
        for part in ("train", "dev")
    )
    return frozenset(found - known)


def dialogue_services(context: RecipeContext) -> Mapping[str, frozenset[str]]:
    """The services of each dialogue of the dev split."""
    rows = read_jsonl_xz(context.file("sgd_dialogues_dev.jsonl.xz"))
    return {row["id"]: frozenset(row["services"]) for row in rows}


def held_out(context: RecipeContext, wanted: Callable[[Row], bool]) -> list[Sample]:
    """The wanted decisions of the dev split, at most `context.limit`, spread over all of them."""
    rows = sgd.RECIPE.raw_rows(RecipeContext(context.source, context.seed), "test")
    return [Sample.from_row(row, "SGD dev") for row in spread([row for row in rows if wanted(row)], context.limit)]
