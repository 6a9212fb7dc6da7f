from __future__ import annotations

from multimodal_ai.training.config import ScheduleConfig
from multimodal_ai.training.time_budget import TimeBudget


def run(budget: TimeBudget, seconds: list[float], pause_at: int = 0, pause: float = 0.0) -> float:
    """Train with given step times, the last for all that follow; returns the time it took."""
    elapsed, step = 0.0, 0
    while step < budget.steps:
        budget.accept(budget.proposal)
        if step >= budget.steps:
            break
        spent = seconds[min(step, len(seconds) - 1)]
        elapsed += spent + (pause if step == pause_at else 0.0)
        step += 1
        budget.step_done(step, spent, elapsed)
    return elapsed


def test_the_stage_ends_on_time():
    budget = TimeBudget(ScheduleConfig(steps=10_000, decay=0.2, time_budget_s=90))
    assert 85 < run(budget, [0.1]) <= 90.1


def test_slow_first_steps_do_not_count_for_the_rest():
    budget = TimeBudget(ScheduleConfig(steps=10_000, time_budget_s=90))
    assert 85 < run(budget, [8.0, 2.0, 0.1]) <= 90.1


def test_the_first_plan_leaves_the_slow_first_steps_out():
    budget = TimeBudget(ScheduleConfig(steps=10_000, time_budget_s=90))
    for step, seconds in enumerate([8.0, 2.0, *[0.1] * 8], start=1):
        assert budget.proposal == 0
        budget.step_done(step, seconds, 0.0)
    assert budget.proposal == 10 + 900


def test_a_change_of_speed_in_the_stable_phase_is_followed():
    budget = TimeBudget(ScheduleConfig(steps=10_000, time_budget_s=90))
    assert 80 < run(budget, [0.1] * 40 + [0.2]) < 100


def test_it_never_trains_longer_than_the_steps_given():
    budget = TimeBudget(ScheduleConfig(steps=20, time_budget_s=90))
    assert run(budget, [0.1]) < 3 and budget.steps == 20


def test_a_budget_already_spent_ends_soon():
    budget = TimeBudget(ScheduleConfig(steps=10_000, time_budget_s=1))
    run(budget, [1.0])
    assert budget.steps == 11


def test_nothing_changes_once_the_decay_may_begin_or_after_a_resume():
    budget = TimeBudget(ScheduleConfig(steps=10_000, time_budget_s=90))
    budget.restore(300)
    run(budget, [5.0])
    assert budget.steps == budget.planned == 300


def test_without_a_budget_the_steps_are_the_configs():
    budget = TimeBudget(ScheduleConfig(steps=7))
    run(budget, [100.0])
    assert budget.steps == budget.planned == 7
