"""Suites against an engine of rules whose right and wrong answers are known."""

from __future__ import annotations

import math

import pytest

from multimodal_ai.data.messages import Sample
from multimodal_ai.evaluation import calls, common, retrieval, text, vqa
from multimodal_ai.inference.requests import Call, Reply, Request

from .conftest import (
    CALL_TOKEN,
    RuleEngine,
    answer_sample,
    calling,
    caption_sample,
    deciding,
    meter_sample,
    question_sample,
)


def test_the_request_ends_before_the_reference() -> None:
    sample = Sample.from_row(
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": "A cup."},
                {"role": "user", "content": "Which colour?"},
                {"role": "assistant", "content": "Blue"},
            ],
            "images": [b"\x89PNG not read here"],
            "task": "vqa",
        }
    )
    request, reference = common.to_request(sample, max_tokens=7)
    assert [message["role"] for message in request.messages] == ["system", "user", "assistant", "user"]
    assert (reference.text, request.max_tokens, len(request.images)) == ("Blue", 7, 1)
    assert "Blue" not in str(request.messages)
    assert Sample.from_request(request.messages, request.tools, request.images).messages == sample.messages[:-1]


@pytest.mark.parametrize(
    ("given", "expected", "same"),
    [
        ("Yes.", "yes", True),
        ("a blue  Circle", "Blue circle", True),
        ("Two", "2", True),
        ("3.5", "35", False),
        ("-3", "3", False),
        ("10:30", "1030", False),
        ("no", "yes", False),
        ("blue circle", "circle", False),
        ("ＢＬＵＥ", "blue", True),
        ("the", "a", False),
        ("", "yes", False),
        ("50%", "50", False),
    ],
)
def test_answers_are_normalised_and_no_softer(given: str, expected: str, same: bool) -> None:
    assert (common.normalise_answer(given) == common.normalise_answer(expected)) is same


def test_vqa_counts_over_all_and_by_source() -> None:
    samples = [
        question_sample("Colour?", "blue"),
        question_sample("Colour?", "red"),
        question_sample("Shape?", "Circle", source="forms"),
        answer_sample(),  # no question about an image: left out
    ]
    engine = RuleEngine(lambda request: Reply("Blue." if "Colour" in str(request.messages) else "circle"))
    result = vqa.run(engine, samples, batch_size=2)
    assert result.metrics["accuracy"] == pytest.approx(2 / 3)
    assert (result.metrics["accuracy/shapes"], result.metrics["accuracy/forms"]) == (0.5, 1.0)
    assert result.metrics["count"] == 3
    assert engine.batches == [2, 1]
    low, high = result.intervals["accuracy"]
    assert low < 2 / 3 < high
    wrong = [example for example in result.examples if not example.correct]
    assert [(example.question, example.expected, example.given) for example in wrong] == [("Colour?", "red", "Blue.")]


def test_retrieval_finds_texts_by_their_images() -> None:
    samples = [caption_sample("red", "all red"), caption_sample("green", "green"), caption_sample("blue", "blue")]
    result = retrieval.run(RuleEngine(), samples, batch_size=2)
    assert result.metrics["image_to_text_recall@1"] == result.metrics["text_to_image_recall@1"] == 1.0
    assert result.metrics["chance_recall@1"] == pytest.approx(1 / 3)
    swapped = [caption_sample("red", "green"), caption_sample("green", "red"), caption_sample("blue", "blue")]
    result = retrieval.run(RuleEngine(), swapped)
    assert result.metrics["image_to_text_recall@1"] == pytest.approx(1 / 3)
    assert [example.correct for example in result.examples] == [False, False, True]


def test_retrieval_refuses_broken_embeddings() -> None:
    engine = RuleEngine()
    engine.embed_images = lambda images: [[math.nan] * 3] * len(images)  # type: ignore[assignment,method-assign]
    with pytest.raises(ValueError, match="row 0 holds NaN"):
        retrieval.run(engine, [caption_sample("red", "red")])


def test_text_is_scored_in_bytes() -> None:
    words = "Grüße aus Köln. " * 40
    sample = Sample.from_row({"text": words, "task": "text", "meta": {"source": "letters"}})
    engine = RuleEngine()
    result = text.run(engine, [sample, answer_sample()], batch_size=4, piece_bytes=100)
    assert result.metrics["bits_per_byte"] == pytest.approx(2.0)
    assert result.metrics["bits_per_byte/letters"] == pytest.approx(2.0)
    assert result.metrics["bytes"] == len(words.encode())


@pytest.mark.parametrize("words", ["", "one two three", "x" * 50, "é" * 33, "a  b\n\nc " * 9, "😀" * 9, "é word" * 5])
def test_pieces_join_to_the_text(words: str) -> None:
    pieces = list(text.split_text(words, 10))
    assert "".join(pieces) == words
    assert all(0 < len(piece.encode()) <= 10 for piece in pieces)


def test_calls_by_hand() -> None:
    samples = [
        meter_sample(1),  # exact, in another order of keys
        meter_sample(2),  # wrong value
        meter_sample(3, image=False),  # exact, without an image
        meter_sample(4),  # nothing called
        answer_sample(),  # right: no call
        answer_sample(trigger="ask_missing"),  # called without need, and not valid
    ]
    replies = [
        Reply(
            calls=[calling(value=1, meter="A-17")],
            trigger=deciding(0.9),
            selection=[("log_reading", 0.9), ("pay", 0.1)],
        ),
        Reply(
            calls=[calling(value=22, meter="A-17")],
            trigger=deciding(0.8),
            selection=[("pay", 0.9), ("log_reading", 0.1)],
        ),
        Reply(calls=[calling(meter="A-17", value=3)], trigger=deciding(0.95), selection=[("log_reading", 1.0)]),
        Reply("No.", trigger=deciding(0.3), selection=[("log_reading", 0.6), ("pay", 0.4)]),
        Reply("Hello!", trigger=deciding(0.1)),
        Reply(calls=[calling(meter="Z-99", value="many")], trigger=deciding(0.6)),
    ]
    waiting = iter(replies)
    result = calls.run(RuleEngine(lambda request: next(waiting)), samples, batch_size=4)
    found = result.metrics
    assert found["call_exact"] == 2 / 4
    assert found["image_call_exact"] == 1 / 3
    assert found["function_exact"] == 3 / 4
    assert found["missed_call_rate"] == 1 / 4
    assert found["false_call_rate"] == 1 / 2
    assert found["schema_valid"] == 3 / 4
    assert found["selection_recall@1"] == 3 / 4
    assert found["selection_mrr"] == (1 + 0.5 + 1 + 1) / 4
    assert found["trigger_auroc"] == pytest.approx(7 / 8)  # of 8 pairs, (0.3, 0.6) is in the wrong order
    assert found["argument_precision"] == 5 / 6
    assert found["argument_recall"] == 5 / 8
    assert found["argument_value_exact/integer"] == 2 / 3
    assert found["hallucinated_rate"] == 2 / 8  # the meter and the value nobody asked for
    assert found["count"] == 6
    assert [example.correct for example in result.examples] == [True, False, True, False, True, False]
    assert "expected integer" in result.examples[5].note
    assert result.examples[1].calls[0]["sources"]["meter"] == {"origin": "user", "copied": 0.9, "confidence": 1.0}


def test_unknown_functions_and_calls_held_back_are_not_valid() -> None:
    samples = [meter_sample(1), meter_sample(2), meter_sample(3)]
    replies = iter(
        [
            Reply(calls=[Call("c", "delete_all", {}, 0.5)], token_ids=[CALL_TOKEN, 1]),
            Reply(token_ids=[CALL_TOKEN, 4], finish_reason="length"),
            Reply(calls=[calling(meter="A-17", value=3)], token_ids=[CALL_TOKEN, 5, 6]),
        ]
    )
    result = calls.run(RuleEngine(lambda request: next(replies)), samples)
    assert result.metrics["schema_valid"] == 1 / 3
    assert "unknown function delete_all" in result.examples[0].note
    assert math.isnan(result.metrics["trigger_auroc"])


def test_the_decision_of_the_data_wins_over_the_turn() -> None:
    sample = answer_sample(trigger="cannot")
    assert common.expected_trigger(sample, sample.messages[-1]) == "cannot"
    assert common.expected_trigger(answer_sample(), answer_sample().messages[-1]) == "answer"
    assert common.expected_trigger(meter_sample(), meter_sample().messages[-1]) == "call"
    plain = question_sample("Colour?", "blue")
    assert common.expected_trigger(plain, plain.messages[-1]) is None


@pytest.mark.parametrize("suite", [vqa, calls, retrieval, text])
def test_a_suite_without_its_kind_of_samples_says_so(suite) -> None:  # type: ignore[no-untyped-def]
    other = question_sample("Colour?", "blue") if suite is not vqa else answer_sample()
    with pytest.raises(ValueError, match="tasks found: "):
        suite.run(RuleEngine(), [other])
    with pytest.raises(ValueError, match="none of the 0 samples"):
        suite.run(RuleEngine(), [])


def test_a_lost_reply_is_noticed() -> None:
    engine = RuleEngine()
    engine.generate = lambda requests: []  # type: ignore[assignment,method-assign]
    with pytest.raises(ValueError, match="0 replies to 1 requests"):
        vqa.run(engine, [question_sample("Colour?", "blue")])


def test_options_reach_the_request() -> None:
    seen: list[Request] = []
    engine = RuleEngine(lambda request: seen.append(request) or Reply())  # type: ignore[func-returns-value]
    calls.run(engine, [meter_sample()], max_tokens=33)
    assert seen[0].max_tokens == 33
    assert seen[0].tool_choice == "auto"
    assert [spec.name for spec in seen[0].tools] == ["log_reading", "pay"]  # type: ignore[union-attr]
