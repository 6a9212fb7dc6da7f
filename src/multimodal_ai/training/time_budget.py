"""How many steps a stage has: what the config says, or what fits into a budget of seconds.

With a budget, speed is measured for ten steps and the number of steps set from it; while the learning rate
is still stable, which is where a warm-up-stable-decay schedule may end at any time, the plan is made again
each time the number of steps done has doubled. The plan stands in every checkpoint, and a resumed run keeps
it: only a run's first pass ever measures.
"""

from __future__ import annotations

from statistics import median

from multimodal_ai.training.config import ScheduleConfig, decay_steps

MEASURED_STEPS = 10
LEFT_OUT = 3  # the first steps allocate and compile


class TimeBudget:
    """The planned number of steps; `steps` is what to train for as far as is known now.

    A process proposes a plan, and the loop accepts the main process' proposal in all of them at the same step.
    """

    def __init__(self, schedule: ScheduleConfig) -> None:
        self.schedule = schedule
        self.steps: int = schedule.steps
        self.planned: int | None = None if schedule.time_budget_s is not None else schedule.steps
        self.proposal = 0  # 0: nothing new
        self._kept = self.planned is not None
        self._next = MEASURED_STEPS
        self._first: tuple[int, float] | None = None
        self._times: list[float] = []

    def step_done(self, step: int, seconds: float, elapsed: float) -> None:
        """Measure. step: steps done; seconds: of this one; elapsed: since the stage began."""
        budget = self.schedule.time_budget_s
        if self._kept or budget is None:
            return
        self._times.append(seconds)
        if step < self._next:
            return
        if self._first is None:
            per_step = median(self._times[LEFT_OUT:] or self._times)
            self._first = (step, elapsed)
        else:  # the mean holds pauses too: evaluation, checkpoints
            per_step = (elapsed - self._first[1]) / (step - self._first[0])
        left = int((budget - elapsed) / max(per_step, 1e-9))
        self.proposal = min(self.schedule.steps, max(step + left, step + 1))
        self._next = step * 2

    def accept(self, proposal: int) -> None:
        """Take the main process' proposal, if there is one; once the decay has begun nothing changes."""
        self.proposal = 0
        if not proposal:
            return
        self.steps = self.planned = proposal
        self._kept = self._next >= proposal - decay_steps(self.schedule, proposal)

    def restore(self, planned: int | None) -> None:
        """Take over the plan of the run that is continued."""
        if planned is not None:
            self.steps = self.planned = planned
            self._kept = True
