"""Filling in arguments for functions that training never showed: the calls of SGD's dev split on unseen services.

Each call is asked for as a user would ask, choice left to the model. Where it does not call, it is asked
again and must: whether it calls is the trigger's affair, and what it fills in is judged on every request.
"""

from __future__ import annotations

from dataclasses import replace

from multimodal_ai.data.recipes.common import RecipeContext, Row
from multimodal_ai.evaluation.call_metrics import (
    ArgumentCounts,
    as_named_calls,
    calls_equal,
    hallucinated_arguments,
)
from multimodal_ai.evaluation.calls import describe_call
from multimodal_ai.evaluation.common import (
    Example,
    Generator,
    SuiteResult,
    ask_each,
    calls_of,
    question_of,
    split_at_reference,
    to_request,
)
from multimodal_ai.evaluation.trigger import held_out, unseen_services
from multimodal_ai.inference.requests import Reply


def run(engine: Generator, context: RecipeContext, batch_size: int = 32, max_tokens: int = 192) -> SuiteResult:
    """Ask for every call on an unseen service and compare function and arguments.

    Returns:
        `sgd_unseen_exact`: the whole call is right, choice left to the model; `sgd_unseen_exact_required`: the
        same where it must call. Of the calls it must make: `precision` and `recall` of arguments, `exact` and
        `exact/<type>` of values, `hallucinated`: values that stand neither in the conversation nor in the
        schema, though they could. `count`, `too_long` (requests that the model cannot take: failed).
    """
    unseen = unseen_services(context)

    def wanted(row: Row) -> bool:
        calls = row["messages"][-1].get("tool_calls", ())
        return bool(calls) and all(call["name"].rsplit("_", 1)[0] in unseen for call in calls)

    samples = held_out(context, wanted)
    pairs = [to_request(sample, max_tokens=max_tokens) for sample in samples]
    requests = [request for request, _ in pairs]
    replies = ask_each(engine.generate, requests, batch_size, "Filling in arguments")
    silent = [number for number, reply in enumerate(replies) if not isinstance(reply, str) and not reply.calls]
    again = [replace(requests[number], tool_choice="required") for number in silent]
    forced: dict[int, Reply | str] = dict(enumerate(replies))
    forced |= zip(silent, ask_each(engine.generate, again, batch_size, "Calls it must make"), strict=True)
    result, counts, free, must, made_up, total = SuiteResult(), ArgumentCounts(), [], [], 0, 0
    for number, (sample, (request, reference)) in enumerate(zip(samples, pairs, strict=True)):
        before = split_at_reference(sample)[0]
        expected, reply = calls_of(reference), forced[number]
        given = [] if isinstance(reply, str) else as_named_calls(reply.calls)
        exact = calls_equal(given, expected)
        must.append(exact)
        free.append(exact and number not in silent)
        schemas = {spec.name: spec.parameters for spec in sample.specs}
        counts.add(given, expected, schemas)
        context_text = "\n".join(message.text for message in before)
        found, of = hallucinated_arguments(given, expected, context_text, schemas, request.today)
        made_up, total = made_up + found, total + of
        result.examples.append(
            Example(
                suite="arguments",
                question=question_of(before),
                expected="",
                given="" if isinstance(reply, str) else reply.content,
                correct=exact,
                expected_calls=[{"name": call.name, "arguments": dict(call.arguments)} for call in expected],
                calls=[] if isinstance(reply, str) else [describe_call(call) for call in reply.calls],
                source="sgd",
                note=f"not taken: {reply}" if isinstance(reply, str) else "asked twice" if number in silent else "",
            )
        )
    result.add_proportion("sgd_unseen_exact", free)
    result.add_proportion("sgd_unseen_exact_required", must)
    for name, value in counts.metrics().items():
        result.metrics[name.removeprefix("argument_").removeprefix("value_")] = value
    result.add_proportion("hallucinated", [True] * made_up + [False] * (total - made_up))
    result.metrics["count"] = float(len(samples))
    result.metrics["too_long"] = float(sum(isinstance(reply, str) for reply in replies))
    return result
