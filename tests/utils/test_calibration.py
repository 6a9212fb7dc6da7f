"""What is fitted finds what was put in; a temperature changes no choice, a worthless score gets no weight."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_ai.evaluation.metrics import expected_calibration_error
from multimodal_ai.utils.calibration import HIGHEST, LOWEST, fit_mixture, fit_temperature, negative_log_likelihood


def drawn(temperature: float, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `temperature` times too sure of labels drawn from the true distribution."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, 4)) * 1.5
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((n, 1)) > shares.cumsum(1)).sum(1)
    return logits * temperature, labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    logits, labels = drawn(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_it_lowers_the_calibration_error_and_changes_no_choice() -> None:
    logits, labels = drawn(3.0)
    fitted = logits / fit_temperature(logits, labels)
    assert (fitted.argmax(1) == logits.argmax(1)).all()

    def error(scores: np.ndarray) -> float:
        top = np.exp(scores - scores.max(1, keepdims=True))
        share = (top / top.sum(1, keepdims=True)).max(1)
        return expected_calibration_error(share.tolist(), (scores.argmax(1) == labels).tolist())

    assert error(fitted) < 0.02 < 0.1 < error(logits)


def test_no_other_temperature_is_likelier() -> None:
    logits, labels = drawn(1.7, 300)
    best = fit_temperature(logits, labels)
    at_best = negative_log_likelihood(logits, labels, best)
    for other in np.geomspace(LOWEST, HIGHEST, 200):
        assert negative_log_likelihood(logits, labels, float(other)) >= at_best - 1e-9


def test_perfect_and_useless_logits_stay_within_bounds() -> None:
    labels = np.arange(40) % 4
    assert fit_temperature(np.eye(4)[labels] * 9, labels) == pytest.approx(LOWEST, rel=1e-3)
    assert fit_temperature(np.eye(4)[(labels + 1) % 4] * 9, labels) == pytest.approx(HIGHEST, rel=1e-3)


def test_what_has_no_temperature_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        fit_temperature(np.zeros((0, 4)), np.zeros(0, dtype=int))
    with pytest.raises(ValueError, match="NaN"):
        fit_temperature(np.full((2, 4), np.nan), np.zeros(2, dtype=int))


def searches(weights: tuple[float, float], n: int = 4_000) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Choices among 3 to 12 candidates, drawn as likely as the weighted scores say."""
    rng = np.random.default_rng(1)
    features = [rng.normal(size=(rng.integers(3, 13), 2)) * (0.2, 1.5) for _ in range(n)]
    targets = []
    for scores in features:
        right = (scores @ np.array(weights) + rng.gumbel(size=len(scores))).argmax()
        targets.append(np.eye(len(scores))[right])
    return features, targets


@pytest.mark.parametrize("weights", [(10.0, 1.0), (0.0, 2.0), (5.0, 0.0)])
def test_known_weights_are_recovered(weights: tuple[float, float]) -> None:
    found = fit_mixture(*searches(weights))
    assert found == pytest.approx(weights, rel=0.1, abs=0.2)


def test_a_score_that_misleads_gets_no_weight() -> None:
    first, second = fit_mixture(*searches((-10.0, 1.0)))
    assert first == 0 and second > 0.5


def test_scores_that_always_decide_keep_finite_weights() -> None:
    scores = np.array([[0.3, 1.0], [0.1, 0.0]])
    assert np.isfinite(fit_mixture([scores] * 5, [np.array([1.0, 0.0])] * 5)).all()


@pytest.mark.parametrize("features, targets", [([], []), ([np.full((2, 2), np.nan)], [np.array([1.0, 0.0])])])
def test_a_mixture_needs_finite_scores(features: list[np.ndarray], targets: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"expected as many|NaN"):
        fit_mixture(features, targets)
