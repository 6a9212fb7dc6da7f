"""The training loop: one for all stages.

A step fetches its micro-batches, adds up over all processes what its losses are divided by, and then runs
each micro-batch forward and backward; so the gradient is the same for any split of the step. The loop
never looks inside a batch or a model: terms, parts and blocks are theirs. It never takes an optimizer step
on a loss or gradient that is not finite, and leaves a checkpoint whenever it is told to stop.

State of a run: weights, optimizer, the step, the planned number of steps, the seconds spent. Random numbers
are seeded anew in every step from (seed, step, process), and the data are a function of the step, so that
a resumed run computes the very same numbers.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from multimodal_ai.training.checkpoint import (
    Checkpointer,
    CheckpointError,
    config_differences,
    latest,
    read_manifest,
)
from multimodal_ai.training.config import TrainerConfig
from multimodal_ai.training.distributed import Distribution, local, start_accelerator
from multimodal_ai.training.interface import EvalHook, NonFiniteError, TrainingBatch, TrainResult
from multimodal_ai.training.interrupt import StopRequest, ignore_in_worker
from multimodal_ai.training.metrics import Evaluation, MetricsLog, StepMetrics
from multimodal_ai.training.optimizer import (
    build_optimizer,
    freeze,
    parameter_plan,
    schedule_factor,
    set_learning_rate,
)
from multimodal_ai.training.time_budget import TimeBudget
from multimodal_ai.utils.logger import get_logger, progress

logger = get_logger(__name__)


class Trainer:
    """Trains `objective` on `micro_batches` as one stage.

    Args:
        objective: `counts(batch)`, `forward(batch)` to a sum per term, `weights`, and `model` with `parts()`,
            `blocks()`, `config` and `save_pretrained(folder)`.
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
        self.accelerator = accelerator or start_accelerator(
            config.precision, config.logging.trackers, config.output_dir
        )
        self.accumulation = config.batch.accumulation(self.accelerator.num_processes)
        self._objective_api = cast(Any, objective)
        self.terms = list(self._objective_api.weights)
        unknown = sorted(set(config.losses) - set(self.terms))
        if unknown:
            raise ValueError(f"losses.{unknown[0]}: unknown term; allowed: {', '.join(self.terms)}")
        plan = parameter_plan(self._objective_api.model, config.parts, config.optimizer)
        freeze(self._objective_api.model, plan)
        self.distribution = Distribution(objective, config, self.accelerator)
        model: nn.Module = self._objective_api.model
        self.optimizer = build_optimizer(model, plan, config.optimizer)
        self.trained = [(plan[name].part, p) for name, p in model.named_parameters() if plan[name].trainable]
        self.micro_batches, self.on_evaluate, self.flops = micro_batches, on_evaluate, flops
        self.identity, self.on_save = dict(identity or {}), on_save
        self.checkpointer = Checkpointer(config.output_dir / "checkpoints", config.checkpoint, self.distribution)
        self.step = 0
        self._spent_before = 0.0
        self._evaluation: dict[str, float] = {}
        self._saved: Path | None = None

    # -- the run --------------------------------------------------------------------------------------------

    def train(self) -> TrainResult:
        """Run the stage to its end, or to a signal; continues from the newest checkpoint.

        Raises:
            NonFiniteError: a loss or gradient is not finite.
            CheckpointError: the checkpoint in output_dir is of another config or damaged.
        """
        config = self.config
        self._began = time.monotonic()
        self.budget = TimeBudget(config.schedule)
        self._resume()
        log = MetricsLog(
            config.output_dir, self.accelerator, config.stage, config.logging.trackers, config.logging.peak_flops
        )
        log.start(self.step)
        values: dict[str, float] = {}
        bar = progress(disable=not config.logging.progress)
        with StopRequest() as request, bar:
            task = bar.add_task(config.stage, total=self.budget.steps, completed=self.step)
            batches = self._batches()
            last_save = time.monotonic()
            stopped = False
            while self.step < self.budget.steps:
                began = time.monotonic()
                micro = next(batches)
                waited = time.monotonic() - began
                save_due = (
                    config.checkpoint.every_seconds is not None
                    and time.monotonic() - last_save >= config.checkpoint.every_seconds
                )
                counts, stopped, save = self._agree_on_step(micro, request.signal is not None, save_due)
                if save or stopped:
                    self._save()
                    last_save = time.monotonic()
                if stopped:
                    break
                metrics = self._train_step(micro, counts, waited)
                self.step += 1
                metrics.seconds = time.monotonic() - began
                self.budget.step_done(self.step, metrics.seconds, self.seconds)
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
                    last_save = time.monotonic()
                if config.eval.every_steps and self.step % config.eval.every_steps == 0:
                    self._evaluate(log)
            values = log.flush(self.step, self.seconds) or values or log.last_losses()
            if not stopped:
                self._save()
                already = config.eval.every_steps and self.step % config.eval.every_steps == 0 and self._evaluation
                if config.eval.at_end and not already:
                    self._evaluate(log)
            log.close()
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
            self._saved,
            model_dir,
        )

    @property
    def seconds(self) -> float:
        """Seconds spent on the stage, in earlier runs too."""
        return self._spent_before + time.monotonic() - self._began

    def _batches(self) -> Iterator[list[TrainingBatch]]:
        """The micro-batches of each step. A worker makes a whole step: its samples are sorted together."""
        loader = DataLoader(
            self.micro_batches,
            batch_sampler=_Steps(self.step, self.accumulation),
            collate_fn=list,
            num_workers=self.config.workers,
            pin_memory=self.distribution.device.type == "cuda",
            worker_init_fn=ignore_in_worker,
        )
        return iter(cast(Any, loader))

    def _agree_on_step(
        self, micro: Sequence[TrainingBatch], stop: bool, save: bool
    ) -> tuple[dict[str, float], bool, bool]:
        """Global counts per term, and whether to stop or save: one sum over all processes for everything."""
        counts = dict.fromkeys(self.terms, 0.0)
        for batch in micro:
            for term, count in self._objective_api.counts(batch).items():
                if term in counts:
                    counts[term] += count
        main = self.distribution.main
        plan = float(self.budget.proposal) if main else 0.0
        summed = self.distribution.sum([*counts.values(), float(stop), float(save and main), plan])
        self.budget.accept(int(summed[-1]))
        return dict(zip(counts, summed[:-3], strict=True)), summed[-3] > 0, summed[-2] > 0

    def _train_step(self, micro: list[TrainingBatch], counts: Mapping[str, float], waited: float) -> StepMetrics:
        distribution, weights = self.distribution, cast(dict[str, float], self._objective_api.weights)
        distribution.module.train()
        _seed_step(self.config.seed, self.step, distribution.rank)
        factors = {
            term: distribution.world_size * weights[term] / counts[term] if counts[term] else 0.0 for term in self.terms
        }
        values = []
        for number, batch in enumerate(micro):
            on_device = batch.to(distribution.device, non_blocking=True)
            with distribution.gradient_sync(last=number == len(micro) - 1):
                with self.accelerator.autocast():
                    sums: dict[str, Tensor] = distribution.module(on_device)
                    loss = sum((sums[term] * factors[term] for term in self.terms), start=torch.zeros(()))
                cast(Tensor, loss).backward()
            values.append(torch.stack([sums[term].detach().float() for term in self.terms]))
        per_micro = torch.stack(values).double().cpu()  # [accumulation, terms]; waits for the device
        flops = sum(self.flops(batch) for batch in micro) if self.flops is not None else 0.0
        own_tokens = float(sum(batch.useful_tokens for batch in micro))
        own_images = float(sum(len(batch.patches) for batch in micro))
        *totals, tokens, images, flops = distribution.sum([*per_micro.sum(0).tolist(), own_tokens, own_images, flops])
        if not all(map(math.isfinite, totals)):
            raise NonFiniteError(self._where_not_finite(per_micro, micro))
        losses = {
            term: total / counts[term] if counts[term] else math.nan
            for term, total in zip(self.terms, totals, strict=True)
        }
        norms = self._finish_gradients()
        factor = schedule_factor(self.config.schedule, self.step, self.budget.steps)
        set_learning_rate(self.optimizer, factor)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepMetrics(
            losses,
            sum(weights[term] * value for term, value in losses.items() if not math.isnan(value)),
            norms,
            self.config.optimizer.lr * factor,
            tokens,
            images,
            flops,
            seconds=0.0,
            data_wait=waited,
        )

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
        saved = self.checkpointer.save(
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
            },
        )
        self._saved = saved or self._saved

    def _resume(self) -> None:
        folder = self.checkpointer.folder
        path = latest(folder)
        if path is None or not self.config.checkpoint.resume:
            if path is not None:
                raise CheckpointError(
                    f"{folder} holds checkpoints, but checkpoint.resume is false; give another output_dir, "
                    "or delete that folder"
                )
            return
        manifest = read_manifest(path)
        different = config_differences(manifest["config"], self.config.model_dump(mode="json"))
        different += config_differences({"identity": manifest["identity"]}, {"identity": self.identity})
        if different:
            raise CheckpointError(
                f"{path} was made with another config:\n  " + "\n  ".join(different) + "\nSet these back, or give "
                "another output_dir to start anew"
            )
        self.checkpointer.load(path, self.distribution.objective, self.optimizer)
        self.step, self._spent_before, self._saved = manifest["step"], manifest["seconds"], path
        self.budget.restore(manifest["total_steps"])
        logger.info("continuing from %s, after %d steps", path, self.step)

    def _save_model(self) -> Path:
        folder = self.config.output_dir / "model"
        model = self.distribution.whole_model()
        error: Exception | None = None
        if model is not None:
            try:
                cast(Any, model).save_pretrained(folder)
                for hook in self.on_save:
                    hook(folder)
            except (OSError, ValueError) as caught:
                error = caught
        agreed = self.distribution.agree(error)
        if agreed is not None:
            raise CheckpointError(f"the trained model could not be written to {folder}: {agreed}") from agreed
        return folder


class _Steps(Sampler[list[int]]):
    """The numbers of each step's micro-batches, from step `first` on without end."""

    def __init__(self, first: int, accumulation: int) -> None:
        self.first, self.accumulation = first, accumulation

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first
        while True:
            yield list(range(step * self.accumulation, (step + 1) * self.accumulation))
            step += 1


def _seed_step(seed: int, step: int, rank: int) -> None:
    mixed = np.random.SeedSequence([seed, step, rank]).generate_state(3, np.uint32).tolist()
    torch.manual_seed(mixed[0])
    random.seed(mixed[1])
    np.random.seed(mixed[2])
