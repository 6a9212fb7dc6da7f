"""The training loop: one for all stages.

A step fetches its micro-batches, adds up over all processes what its losses are divided by, and then runs
each micro-batch forward and backward; so the gradient is the same for any split of the step. The loop
never looks inside a batch or a model: terms, parts and blocks are theirs. It never takes an optimizer step
on a loss or gradient that is not finite, and leaves a checkpoint whenever it is told to stop.

State of a run: weights, optimizer, the step, the planned number of steps, the seconds spent, and the steps
that no line of metrics tells of yet. Random numbers are seeded anew in every step from (seed, step, process),
and the data are a function of the step, so that a resumed run computes the very same numbers.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from multimodal_ai.training.batches import BatchStream
from multimodal_ai.training.checkpoint import (
    Checkpointer,
    CheckpointError,
    DamagedError,
    config_differences,
    latest,
    read_manifest,
    versions,
)
from multimodal_ai.training.config import TrainerConfig
from multimodal_ai.training.distributed import Distribution, describe_process, local, lost_contact, start_accelerator
from multimodal_ai.training.interface import (
    EvalHook,
    NonFiniteError,
    TrainingBatch,
    TrainingStopped,
    TrainResult,
)
from multimodal_ai.training.interrupt import StopRequest
from multimodal_ai.training.metrics import Evaluation, MetricsLog, StepMetrics
from multimodal_ai.training.optimizer import (
    LearningRates,
    build_optimizer,
    freeze,
    parameter_plan,
    schedule_factor,
    set_learning_rate,
)
from multimodal_ai.training.run_record import RunKeeper, new_record
from multimodal_ai.training.time_budget import TimeBudget
from multimodal_ai.training.trackers import Trackers
from multimodal_ai.utils.logger import get_logger, progress

logger = get_logger(__name__)


class Trainer:
    """Trains `objective` on `micro_batches` as one stage.

    Args:
        objective: `counts(batch)`, `forward(batch)` to a sum per term, `weights`, and `model` with `parts()`,
            `blocks()`, `config` and `save_pretrained(folder)`. With `sources`, names of data sources, also
            `source_sums`: float[terms, sources, 2], sum and count of the last forward pass.
        micro_batches: item i is this process' i-th micro-batch; a pure function of i.
        on_evaluate: each is called with (steps done, model) on the main process, in eval mode without
            gradients, and returns numbers, or numbers with texts and images.
        flops: training FLOPs of a micro-batch, padding apart, for the MFU.
        identity: what the data depend on besides the config (a tokenizer's fingerprint); must not change
            between the runs of a stage.
        on_save: called on the main process with the folder of the finished model, to add what belongs there.
    """

    def __init__(
        self,
        config: TrainerConfig,
        objective: nn.Module,
        micro_batches: Dataset[Any],
        *,
        on_evaluate: Sequence[EvalHook] = (),
        flops: Callable[[Any], float] | None = None,
        identity: Mapping[str, str] | None = None,
        on_save: Sequence[Callable[[Path], None]] = (),
        accelerator: Accelerator | None = None,
    ) -> None:
        self.config = config
        self.accelerator = accelerator or start_accelerator(config.precision)
        trackers = Trackers(config.logging, config.output_dir, config.stage)
        self.accumulation = config.batch.accumulation(self.accelerator.num_processes)
        self._objective_api = cast(Any, objective)
        self.terms = list(self._objective_api.weights)
        self.sources: Sequence[str] = getattr(objective, "sources", ())
        unknown = sorted(set(config.losses) - set(self.terms))
        if unknown:
            raise ValueError(f"losses.{unknown[0]}: unknown term; allowed: {', '.join(self.terms)}")
        plan = parameter_plan(self._objective_api.model, config.parts, config.optimizer)
        freeze(self._objective_api.model, plan)
        self.distribution = Distribution(objective, config, self.accelerator)
        model: nn.Module = self._objective_api.model
        processes = dist.group.WORLD if self.distribution.world_size > 1 else None
        self.optimizer = build_optimizer(model, plan, config.optimizer, processes)
        self.trained = [(plan[name].part, p) for name, p in model.named_parameters() if plan[name].trainable]
        self.rates = LearningRates(self.optimizer, self.trained)
        self.micro_batches, self.on_evaluate, self.flops = micro_batches, on_evaluate, flops
        self.identity, self.on_save = dict(identity or {}), on_save
        self.checkpointer = Checkpointer(config.output_dir / "checkpoints", config.checkpoint, self.distribution)
        self.log = MetricsLog(config.output_dir, self.accelerator, trackers, config.logging.peak_flops)
        environment = describe_process(self.accelerator) | {"versions": _words(versions())}
        record = new_record(config.stage, self.distribution.world_size, environment)
        self.keeper = RunKeeper(config.output_dir, self.distribution.main, record)
        self.step = 0
        self._spent_before = 0.0
        self._evaluation: dict[str, float] = {}

    # -- the run --------------------------------------------------------------------------------------------

    def train(self) -> TrainResult:
        """Run the stage to its end, or to a signal; continues from the newest checkpoint.

        Raises:
            TrainingStopped: the run cannot go on: a loss or gradient is not finite (NonFiniteError), the data
                cannot be read, another process is gone.
            CheckpointError: the checkpoint in output_dir is of another config or damaged.
            ValueError: another process trains into output_dir.
        """
        self._began = time.monotonic()
        self.budget = TimeBudget(self.config.schedule)
        self._alone(self.keeper.wait_for_other)
        window = self._resume()
        self.log.start(self.step, window)
        self.log.trackers.start(self.step, self.config.model_dump(mode="json"))
        with self.keeper.running(self.step, self.budget.steps), StopRequest() as request:
            try:
                result = self._run(request)
            except RuntimeError as error:
                if self.distribution.world_size == 1 or not lost_contact(error):
                    raise
                reason = str(error).splitlines()[0].split(". ")[0]
                newest = self.checkpointer.newest or "the start"
                raise TrainingStopped(
                    f"step {self.step + 1}: process {self.distribution.rank} of {self.distribution.world_size} lost "
                    f"contact with another one, which was killed or failed ({reason}); its own "
                    f"output says more. Run the same command again to go on from {newest}"
                ) from error
            self.keeper.record.state = "finished" if result.status == "completed" else "stopped"
            return result

    def _run(self, request: StopRequest) -> TrainResult:
        config, log = self.config, self.log
        values: dict[str, float] = {}
        bar = progress(disable=not config.logging.progress)
        stream = BatchStream(self.micro_batches, self.step, self.accumulation, config.workers, self.distribution.device)
        with contextlib.closing(stream), contextlib.closing(self), bar, self.checkpointer:
            task = bar.add_task(config.stage, total=self.budget.steps, completed=self.step)
            stopped = False
            while self.step < self.budget.steps:
                began = time.monotonic()
                micro: list[TrainingBatch] = []
                error: Exception | None = None
                try:
                    micro = stream.take()
                except Exception as caught:  # the other processes must hear of it, whatever it is
                    error = caught
                waited = time.monotonic() - began
                due = self.checkpointer.due
                counts, stopped, save, failed = self._agree_on_step(micro, request.signal is not None, due, error)
                if save or stopped or failed:
                    self._save()
                if failed:
                    raise self._no_data(error)
                if stopped:
                    break
                metrics = self._train_step(micro, counts, waited)
                self.step += 1
                metrics.seconds = time.monotonic() - began
                self.budget.step_done(self.step, metrics.seconds, self.seconds)
                self.keeper.record.step = self.step
                self.keeper.plan(self.budget.steps)
                log.add(metrics)
                bar.update(
                    task,
                    completed=self.step,
                    total=self.budget.steps,
                    description=f"{config.stage} loss {metrics.loss:.3f}",
                )
                if self.step % config.logging.every_steps == 0 or self.step == self.budget.steps:
                    values = log.flush(self.step, self.seconds) or values
                if config.checkpoint.every_steps and self.step % config.checkpoint.every_steps == 0:
                    self._save()
                if config.eval.every_steps and self.step % config.eval.every_steps == 0:
                    self._evaluate(log)
            values = log.flush(self.step, self.seconds) or values or log.last_losses()
            if not stopped:
                self._save()
            self.checkpointer.wait()
            if not stopped:
                already = config.eval.every_steps and self.step % config.eval.every_steps == 0 and self._evaluation
                if config.eval.at_end and not already:
                    self._evaluate(log)
            model_dir = None if stopped else self._save_model()
        return TrainResult(
            config.stage,
            "interrupted" if stopped else "completed",
            request.exit_code or (143 if stopped else 0),
            self.step,
            self.budget.steps,
            self.seconds,
            values.get("loss", math.nan),
            {key.removeprefix("loss/"): value for key, value in values.items() if key.startswith("loss/")},
            self._evaluation,
            self.checkpointer.newest,
            model_dir,
        )

    def close(self) -> None:
        """Write what was measured last, whatever ended the run, and finish the trackers."""
        self.log.flush(self.step, self.seconds)
        self.log.close()

    @property
    def seconds(self) -> float:
        """Seconds spent on the stage, in earlier runs too."""
        return self._spent_before + time.monotonic() - self._began

    def _agree_on_step(
        self, micro: Sequence[TrainingBatch], stop: bool, save: bool, error: Exception | None
    ) -> tuple[dict[str, float], bool, bool, bool]:
        """Global counts per term, and whether to stop, to save, or to give up: one sum over all processes."""
        counts = dict.fromkeys(self.terms, 0.0)
        for batch in micro:
            for term, count in self._objective_api.counts(batch).items():
                if term in counts:
                    counts[term] += count
        plan = float(self.budget.proposal) if self.distribution.main else 0.0
        flags = [float(stop), float(save), float(error is not None)]
        summed = self.distribution.sum([*counts.values(), *flags, plan])
        self.budget.accept(int(summed[-1]))
        stopped, due, failed = (value > 0 for value in summed[-4:-1])
        return dict(zip(counts, summed[:-4], strict=True)), stopped, due, failed

    def _no_data(self, error: Exception | None) -> TrainingStopped:
        """What every process raises when one of them has no data for the next step."""
        agreed = self.distribution.agree(error)
        self.checkpointer.wait()
        newest = self.checkpointer.newest
        kept = f"the last checkpoint is {newest}" if newest else "there is no checkpoint"
        stopped = TrainingStopped(
            f"step {self.step + 1}: no data: {agreed}. The step was not taken, {kept}; mend the data and run the "
            "same command again"
        )
        stopped.__cause__ = agreed
        return stopped

    def _alone(self, action: Callable[[], object]) -> None:
        """Do something on the main process; an OSError or ValueError there is raised on all."""
        error: Exception | None = None
        if self.distribution.main:
            try:
                action()
            except (OSError, ValueError) as caught:
                error = caught
        agreed = self.distribution.agree(error)
        if agreed is not None:
            raise agreed

    def _train_step(self, micro: list[TrainingBatch], counts: Mapping[str, float], waited: float) -> StepMetrics:
        distribution, weights = self.distribution, cast(dict[str, float], self._objective_api.weights)
        distribution.module.train()
        _seed_step(self.config.seed, self.step, distribution.rank)
        factors = {
            term: distribution.world_size * weights[term] / counts[term] if counts[term] else 0.0 for term in self.terms
        }
        values = []
        by_source = torch.zeros(len(self.terms), len(self.sources), 2, device=distribution.device)
        for number, batch in enumerate(micro):
            on_device = batch.to(distribution.device, non_blocking=True)
            with distribution.gradient_sync(last=number == len(micro) - 1):
                with self.accelerator.autocast():
                    sums: dict[str, Tensor] = distribution.module(on_device)
                    loss = sum((sums[term] * factors[term] for term in self.terms), start=torch.zeros(()))
                cast(Tensor, loss).backward()
            values.append(torch.stack([sums[term].detach().float() for term in self.terms]))
            if self.sources:
                by_source += self._objective_api.source_sums
        per_micro = torch.stack(values).double().cpu()  # [accumulation, terms]; waits for the device
        flops = sum(self.flops(batch) for batch in micro) if self.flops is not None else 0.0
        own_tokens = float(sum(batch.useful_tokens for batch in micro))
        own_images = float(sum(len(batch.patches) for batch in micro))
        own = [*by_source.flatten().tolist(), *per_micro.sum(0).tolist(), own_tokens, own_images, flops]
        *both, tokens, images, flops = distribution.sum(own)
        totals, sources = both[by_source.numel() :], self._named_by_source(both[: by_source.numel()])
        if not all(map(math.isfinite, totals)):
            raise NonFiniteError(self._where_not_finite(per_micro, micro))
        losses = {term: total / counts[term] for term, total in zip(self.terms, totals, strict=True) if counts[term]}
        norms = self._finish_gradients()
        factor = schedule_factor(self.config.schedule, self.step, self.budget.steps)
        set_learning_rate(self.optimizer, factor)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepMetrics(
            losses,
            sum(weights[term] * value for term, value in losses.items()),
            norms,
            self.config.optimizer.lr * factor,
            tokens,
            images,
            flops,
            seconds=0.0,
            data_wait=waited,
            learning_rates=self.rates.by_part(),
            sources=sources,
        )

    def _named_by_source(self, values: Sequence[float]) -> dict[str, tuple[float, float]]:
        """Sum and count by `<source>/<term>`, of those that have a label in the step; values: [terms, sources, 2]."""
        names = [f"{source}/{term}" for term in self.terms for source in self.sources]
        pairs = zip(values[::2], values[1::2], strict=True)
        return {name: pair for name, pair in zip(names, pairs, strict=True) if pair[1]}

    def _finish_gradients(self) -> dict[str, float]:
        """Clip the gradients, and return their norm before that by part.

        A parameter that no loss has reached yet is left alone, so that a part without a loss in this stage
        neither decays nor costs optimizer memory, whether its gradient is missing (DDP) or zero (FSDP2).
        """
        self.distribution.finish_gradients()
        each = self.distribution.gradient_norms([parameter for _, parameter in self.trained])
        squares: dict[str, float] = {}
        for (part, parameter), norm in zip(self.trained, each, strict=True):
            squares[part] = squares.get(part, 0.0) + norm**2
            if norm == 0 and not self.optimizer.state.get(parameter):
                parameter.grad = None
        norms = {part: math.sqrt(square) for part, square in squares.items()}
        for part, norm in norms.items():
            if not math.isfinite(norm):
                raise NonFiniteError(
                    f"step {self.step + 1}: the gradient of {part} is {norm} although every loss is finite; the "
                    "optimizer step was not taken. Lower optimizer.lr, or set precision: fp32"
                )
        total, limit = math.hypot(*norms.values()), self.config.optimizer.grad_clip
        if limit and total > limit:
            torch._foreach_mul_([local(p.grad) for _, p in self.trained if p.grad is not None], limit / total)
        return norms

    def _where_not_finite(self, per_micro: Tensor, micro: Sequence[TrainingBatch]) -> str:
        places = []
        for number, row in enumerate(per_micro.tolist()):
            for term, value in zip(self.terms, row, strict=True):
                if not math.isfinite(value):
                    rows = ", ".join(micro[number].origins) or "rows unknown"
                    places.append(
                        f"loss term {term} is {value} in micro-batch {number + 1} of {len(micro)} on process "
                        f"{self.distribution.rank} ({rows})"
                    )
        found = [place for part in self.distribution.gather(places) for place in part]
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        return (
            f"step {self.step + 1}: {'; '.join(found[:3]) or 'the summed loss overflows'}{more}. The optimizer step "
            "was not taken and the checkpoints are untouched; look at these rows with `multimodal-ai data inspect`"
        )

    # -- evaluation and state -------------------------------------------------------------------------------

    def _evaluate(self, log: MetricsLog) -> None:
        if not self.on_evaluate:
            return
        model = self.distribution.whole_model(self.distribution.device)
        error: Exception | None = None
        if model is not None:
            model.eval()
            try:
                with torch.no_grad(), self.accelerator.autocast():
                    for hook in self.on_evaluate:
                        result = hook(self.step, model)
                        if not isinstance(result, Evaluation):
                            result = Evaluation(dict(result))
                        self._evaluation.update(result.metrics)
                        log.evaluation(self.step, self.seconds, result)
            except Exception as caught:  # the other processes must hear of it, whatever it is
                error = caught
        agreed = self.distribution.agree(error)
        if agreed is not None:
            raise agreed

    def _save(self) -> None:
        self.checkpointer.save(
            self.step,
            self.distribution.objective,
            self.optimizer,
            {
                "stage": self.config.stage,
                "total_steps": self.budget.planned,
                "seconds": round(self.seconds, 3),
                "config": self.config.model_dump(mode="json"),
                "identity": self.identity,
                "data": {"step": self.step, "samples": self.step * self.config.batch.global_size},
                "random": {"seed": self.config.seed, "step": self.step},
                "processes": self.distribution.world_size,
                "unlogged": self.log.window,
            },
        )

    def _resume(self) -> list[dict[str, Any]]:
        """Take over the newest checkpoint, if there is one; returns the steps that no line of metrics tells of yet."""
        folder = self.checkpointer.folder
        path = latest(folder)
        if path is None or not self.config.checkpoint.resume:
            if path is not None:
                raise CheckpointError(
                    f"{folder} holds checkpoints, but checkpoint.resume is false; give another output_dir, "
                    "or delete that folder"
                )
            return []
        manifest = read_manifest(path)
        different = config_differences(manifest["config"], self.config.model_dump(mode="json"))
        identity = {**self.identity, **manifest["identity"]}  # what an older version did not write is not compared
        different += config_differences({"identity": identity}, {"identity": self.identity})
        if different:
            raise CheckpointError(
                f"{path} was made with another config:\n  " + "\n  ".join(different) + "\nSet these back, or give "
                "another output_dir to start anew"
            )
        try:
            self.checkpointer.load(path, self.distribution.objective, self.optimizer)
        except DamagedError as error:
            self._alone(functools.partial(self._set_aside, path, error))
            return self._resume()
        self.step, self._spent_before, self.checkpointer.newest = manifest["step"], manifest["seconds"], path
        self.budget.restore(manifest["total_steps"])
        logger.info("continuing from %s, after %d steps", path, self.step)
        return cast(list[dict[str, Any]], manifest.get("unlogged", []))

    def _set_aside(self, path: Path, error: DamagedError) -> None:
        """Let the checkpoint before a damaged one be the newest; the damaged one stays to be looked at."""
        others = [other for other in self.checkpointer.folder.glob("step_*") if other != path]
        if not others:
            raise error
        logger.error("%s. Going on from the checkpoint before it", error)
        path.rename(path.with_name(f".{path.name}.damaged"))

    def _save_model(self) -> Path:
        folder = self.config.output_dir / "model"
        model = self.distribution.whole_model()

        def save() -> None:
            cast(Any, model).save_pretrained(folder)
            for hook in self.on_save:
                hook(folder)

        try:
            self._alone(save)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"the trained model could not be written to {folder}: {error}") from error
        return folder


def _seed_step(seed: int, step: int, rank: int) -> None:
    mixed = np.random.SeedSequence([seed, step, rank]).generate_state(3, np.uint32).tolist()
    torch.manual_seed(mixed[0])
    random.seed(mixed[1])
    np.random.seed(mixed[2])


def _words(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
