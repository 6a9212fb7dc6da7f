"""From files to batches: sources, their mix, and micro-batches as a pure function of their number.

Storage and formats are the `datasets` library's. `MicroBatches[i]` is the i-th micro-batch of one process:
it depends on the configuration, the seed and i alone, so the state of the data is the step. A sample that
cannot be used (too long, corrupt image) is counted and replaced by the next row of the same source, and
past a set rate the run fails loudly.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from torch.utils.data import Dataset as TorchDataset

from multimodal_ai.data.augmentation import AugmentConfig
from multimodal_ai.data.examples import Example, build_example, hide_functions
from multimodal_ai.data.function_augmentation import FunctionAugmentation, FunctionsConfig
from multimodal_ai.data.image_processor import ImageConfig, ImageError, ImageProcessor
from multimodal_ai.data.messages import DataError, Sample, load_rows
from multimodal_ai.data.ordering import Mix, mixed_hash
from multimodal_ai.data.packing import Batch, collate
from multimodal_ai.data.rendering import Renderer, RenderingConfig, TooLong
from multimodal_ai.data.row_index import rows_of_tasks
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.utils.config import ConfigModel
from multimodal_ai.utils.logger import get_logger

log = get_logger(__name__)


class SourceConfig(ConfigModel):
    """One source of the mix."""

    path: Annotated[str, BeforeValidator(str)]  # .parquet, .jsonl, .tar, a folder of one kind, or a URL (s3://, …)
    weight: float = 1.0
    tasks: list[str] | None = None  # keep only rows of these tasks; all by default
    objective: Literal["prefix_lm", "span_corruption", "both"] = "both"  # for plain text
    run: int = Field(default=1, ge=1)  # neighbouring rows drawn together: a shared image is then encoded once
    functions: FunctionsConfig = FunctionsConfig()  # changes of the functions that samples list
    augment: AugmentConfig | None = None  # changes of this source's images, instead of those of data.image


class DataConfig(ConfigModel):
    """The data of a stage: sources with weights, image processing, rendering."""

    sources: dict[str, SourceConfig]
    image: ImageConfig = ImageConfig()
    rendering: RenderingConfig = RenderingConfig()
    max_bad_rate: float = 0.02  # share of samples that may be unusable before the run fails


def _length(example: Example) -> tuple[int, int, int]:
    """What decides how much is padded: the answer first, then cards, then the source."""
    return len(example.target.ids), sum(len(card.ids) for card in example.cards), len(example.source.ids)


class Source:
    """Rows of one file or folder as samples."""

    def __init__(self, name: str, config: SourceConfig) -> None:
        self.name, self.config = name, config
        self.rows = load_rows(config.path)
        self._used = None if config.tasks is None else rows_of_tasks(self.rows, config.tasks, config.path)
        if not len(self):
            tasks = f" of the tasks {', '.join(config.tasks)}" if config.tasks else ""
            raise DataError(f"{config.path}: no rows{tasks}; a source needs at least one")
        self.augmentation: FunctionAugmentation | None = None
        if config.functions != FunctionsConfig():
            self.augmentation = FunctionAugmentation(config.functions, self._spread())

    def __len__(self) -> int:
        return len(self.rows if self._used is None else self._used)

    def row(self, index: int) -> int:
        """The number of a sample's row in its file: rows of other tasks are not counted by `index`."""
        return index if self._used is None else int(self._used[index])

    def where(self, index: int) -> str:
        """The row in words, counted from 1 as editors do."""
        return f"row {self.row(index) + 1:,} of {Path(self.config.path).name}"

    def _spread(self, count: int = 1024) -> Iterator[Sample]:
        """At most about `count` usable samples from all over the source."""
        for index in range(0, len(self), -(-len(self) // count)):
            with contextlib.suppress(DataError):
                yield self.sample(index)

    def sample(self, index: int) -> Sample:
        """Sample `index`, validated; DataError names the row."""
        return Sample.from_row(self.rows[self.row(index)], self.where(index))


class MicroBatches(TorchDataset[Batch]):
    """The micro-batches of one process; see the module's docstring.

    global_size samples make one optimizer step; process `rank` of `world` takes its share in micro-batches
    of `micro_size`, ordered by length so that little is padded. The step's samples are the same for any
    world and micro size.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer,
        *,
        seed: int,
        global_size: int,
        micro_size: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if global_size % (micro_size * world):
            part = micro_size * world
            raise ValueError(
                f"batch.global_size {global_size} does not divide by batch.micro_size {micro_size} times "
                f"{world} processes; the next that does is {-(-global_size // part) * part}"
            )
        self.config, self.seed = config, seed
        self.global_size, self.micro_size, self.rank, self.world = global_size, micro_size, rank, world
        self.accumulation = global_size // (micro_size * world)
        self.sources = [Source(name, source) for name, source in config.sources.items()]
        configs = [source.config for source in self.sources]
        self.mix = Mix([len(s) for s in self.sources], [c.weight for c in configs], seed, [c.run for c in configs])
        self.renderer = Renderer(tokenizer, config.rendering)
        self.images = [
            ImageProcessor(config.image.model_copy(update={"augment": one.augment or config.image.augment}))
            for one in configs
        ]
        self.seen, self.bad = 0, Counter[str]()
        self._share: tuple[int, list[Example]] = (-1, [])  # of the step last asked for

    def __getitem__(self, number: int) -> Batch:
        """Micro-batch `number` of this process, counted from the start of the run."""
        step, part = divmod(number, self.accumulation)
        if step != self._share[0]:
            size = self.accumulation * self.micro_size
            first = step * self.global_size + self.rank * size
            share = sorted((self.example(position) for position in range(first, first + size)), key=_length)
            self._share = (step, share)
        examples = self._share[1][part * self.micro_size : (part + 1) * self.micro_size]
        patch_values = 3 * self.config.image.patch_size**2
        return collate(examples, patch_values, self.renderer.tokenizer.space, multiple=16)

    def example(self, position: int) -> Example:
        """The example at a position of the run; unusable rows give way to the next of their source."""
        number, epoch, index = self.mix[position]
        source = self.sources[number]
        self.seen += 1
        for attempt in range(len(source)):
            row = (index + attempt) % len(source)
            rng = random.Random(mixed_hash(self.seed, position, number, epoch))
            objective: Literal["prefix_lm", "span_corruption"]
            if source.config.objective == "both":
                objective = "prefix_lm" if rng.random() < 0.5 else "span_corruption"
            else:
                objective = source.config.objective
            try:
                sample, hidden = source.sample(row), False
                if source.augmentation is not None:
                    key = mixed_hash(self.seed, number, epoch, row)
                    sample, hidden = source.augmentation(sample, random.Random(key))
                example = build_example(sample, self.renderer, self.images[number], rng, objective)
                if hidden:
                    example = hide_functions(example)
            except (TooLong, DataError, ImageError) as error:
                self._count_bad(type(error).__name__, f"{source.where(row)}: {error}")
                continue
            example.origin, example.data_source = source.where(row), number
            return example
        raise DataError(f"{source.config.path}: not a single usable row")

    def _count_bad(self, kind: str, message: str) -> None:
        self.bad[kind] += 1
        if self.bad[kind] <= 3:
            log.warning("left out: %s", message)
        bad = self.bad.total()
        if bad > 20 and bad > self.config.max_bad_rate * self.seen:
            counts = ", ".join(f"{count} {kind}" for kind, count in self.bad.items())
            raise DataError(
                f"{bad} of {self.seen} samples could not be used ({counts}), more than data.max_bad_rate "
                f"{self.config.max_bad_rate} allows; the last: {message}. Run `multimodal-ai data validate`"
            )
