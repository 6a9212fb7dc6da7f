"""Metrics against values worked out by hand, and what they do where nothing is defined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from multimodal_ai.evaluation import metrics


def test_bits_per_byte_is_weighted_by_bytes() -> None:
    # 2 bytes at 8 bits in all, 6 bytes at 8 bits in all: 16 bits over 8 bytes.
    assert metrics.bits_per_byte([8 * math.log(2), 8 * math.log(2)], [2, 6]) == pytest.approx(2.0)
    assert math.isnan(metrics.bits_per_byte([], []))
    with pytest.raises(ValueError, match="one shape"):
        metrics.bits_per_byte([1.0], [1, 2])
    with pytest.raises(ValueError, match="NaN or infinite"):
        metrics.bits_per_byte([math.inf], [1])


def test_wilson_interval_against_published_values() -> None:
    low, high = metrics.wilson_interval(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    low, high = metrics.wilson_interval(0, 10)
    assert (low, high) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert metrics.wilson_interval(10, 10)[1] == 1.0
    assert metrics.wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="between 0 and the count"):
        metrics.wilson_interval(3, 2)


@settings(deadline=None)
@given(count=st.integers(1, 500), data=st.data())
def test_the_interval_holds_its_value(count: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, count))
    low, high = metrics.wilson_interval(successes, count)
    assert 0 <= low <= successes / count <= high <= 1
    narrow_low, narrow_high = metrics.wilson_interval(successes, count, confidence=0.5)
    assert low <= narrow_low + 1e-12 and narrow_high <= high + 1e-12


def test_accuracy_counts_and_is_undefined_for_nothing() -> None:
    result = metrics.accuracy([True, False, True, True])
    assert (result.value, result.count) == (0.75, 4)
    nothing = metrics.accuracy([])
    assert math.isnan(nothing.value) and (nothing.low, nothing.high, nothing.count) == (0.0, 1.0, 0)


def test_retrieval_in_both_directions_by_hand() -> None:
    similarity = [[0.9, 0.1, 0.2], [0.8, 0.5, 0.6], [0.1, 0.7, 0.3]]
    # images: ranks 1, 3, 2. texts (columns): 1, 2, 2.
    found = metrics.retrieval_metrics(similarity, k=(1, 2))
    assert found["image_to_text_recall@1"] == pytest.approx(1 / 3)
    assert found["image_to_text_recall@2"] == pytest.approx(2 / 3)
    assert found["image_to_text_mrr"] == pytest.approx((1 + 1 / 3 + 1 / 2) / 3)
    assert found["text_to_image_recall@1"] == pytest.approx(1 / 3)
    assert found["text_to_image_recall@2"] == pytest.approx(1.0)
    assert found["text_to_image_mrr"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)


def test_pairs_of_one_label_answer_for_each_other() -> None:
    similarity = [[0.1, 0.9], [0.9, 0.1]]
    assert metrics.retrieval_metrics(similarity)["image_to_text_recall@1"] == 0.0
    assert metrics.retrieval_metrics(similarity, labels=["cup", "cup"])["image_to_text_recall@1"] == 1.0


def test_constant_scores_earn_nothing() -> None:
    found = metrics.retrieval_metrics(np.zeros((20, 20)), k=(1, 10))
    assert found["image_to_text_recall@1"] == found["text_to_image_recall@10"] == 0.0


def test_retrieval_edge_cases() -> None:
    assert all(math.isnan(value) for value in metrics.retrieval_metrics(np.zeros((0, 0))).values())
    assert metrics.retrieval_metrics([[0.3]])["text_to_image_mrr"] == 1.0
    with pytest.raises(ValueError, match="square"):
        metrics.retrieval_metrics(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="query 1 has no relevant item"):
        metrics.ranks([[1.0, 2.0], [1.0, 2.0]], [[True, False], [False, False]])


def test_selection_ranks_skip_other_wanted_functions() -> None:
    rankings = [["a", "b", "c"], ["a", "b", "c"], ["a"], []]
    gold = [["b"], ["a", "b"], ["z"], []]
    assert metrics.selection_ranks(rankings, gold) == [2, 1, 1, math.inf]
    rank = metrics.selection_ranks(rankings, gold)
    assert metrics.recall_at_k(rank, 1) == 0.5
    assert metrics.mean_reciprocal_rank(rank) == pytest.approx((0.5 + 1 + 1 + 0) / 4)


def test_ranking_of_a_binary_decision_by_hand() -> None:
    labels, scores = [1, 0, 1, 0], [0.9, 0.8, 0.4, 0.1]
    assert metrics.auroc(labels, scores) == pytest.approx(0.75)  # 3 of 4 pairs in order
    assert metrics.auprc(labels, scores) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.false_positive_rate_at_recall(labels, scores) == pytest.approx(0.5)
    assert metrics.brier(labels, scores) == pytest.approx((0.01 + 0.64 + 0.36 + 0.01) / 4)


@pytest.mark.parametrize("labels", [[1, 1], [0, 0], []])
def test_one_class_only_is_undefined_and_not_perfect(labels: list[int]) -> None:
    scores = [0.5] * len(labels)
    assert math.isnan(metrics.auroc(labels, scores))
    assert math.isnan(metrics.auprc(labels, scores))
    assert math.isnan(metrics.false_positive_rate_at_recall(labels, scores))


def test_macro_f1_by_hand() -> None:
    labels = ["call", "call", "answer", "answer"]
    predictions = ["call", "answer", "answer", "cannot"]
    # call: precision 1, recall 1/2 -> 2/3. answer: precision 1/2, recall 1/2 -> 1/2.
    assert metrics.macro_f1(labels, predictions) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert math.isnan(metrics.macro_f1([], []))
    with pytest.raises(ValueError, match="1 predictions for 2 labels"):
        metrics.macro_f1(["a", "b"], ["a"])


def test_calibration_error_by_hand() -> None:
    confidences, correct = [0.9, 0.9, 0.1, 0.1], [True, False, False, False]
    # one bin at .9 with accuracy .5 (gap .4), one at .1 with accuracy 0 (gap .1), half the weight each.
    assert metrics.expected_calibration_error(confidences, correct) == pytest.approx(0.25)
    assert [found.count for found in metrics.reliability(confidences, correct)] == [2, 2]
    assert metrics.expected_calibration_error([0.0, 1.0], [False, True]) == 0.0
    assert math.isnan(metrics.expected_calibration_error([], []))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        metrics.expected_calibration_error([1.5], [True])


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_reliability_loses_no_item(items: list[tuple[float, bool]]) -> None:
    confidences, correct = zip(*items, strict=True)
    assert sum(found.count for found in metrics.reliability(confidences, correct)) == len(items)
    assert 0 <= metrics.expected_calibration_error(confidences, correct) <= 1


def test_temperature_undoes_a_known_overconfidence() -> None:
    generator = np.random.default_rng(0)
    calibrated = generator.normal(size=(20_000, 4)) * 2
    shares = np.exp(log_softmax(calibrated, axis=1))
    labels = (shares.cumsum(1) > generator.random((len(shares), 1))).argmax(1)
    assert metrics.fit_temperature(calibrated * 3, labels) == pytest.approx(3, rel=0.05)
    assert metrics.fit_temperature(calibrated, labels) == pytest.approx(1, rel=0.05)


def test_temperature_edge_cases() -> None:
    assert metrics.fit_temperature(np.zeros((0, 2)), []) == 1.0
    assert 0.01 <= metrics.fit_temperature([[5.0, 0.0]], [0]) <= 0.1  # always right: sharp, yet limited
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.fit_temperature([[0.0, 1.0]], [2])
