"""Generated examples inside the training loop: what the model answers now, to look at in TensorBoard and the report.

A hook for `training.run.run_training`. It asks the engine as a user would, through the same requests as the
suites, always about the same held-out samples; it never changes the model. The numbers are rough (a few
samples); the suites measure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from torch import nn

from multimodal_ai.data.image_processor import ImageProcessor
from multimodal_ai.data.messages import Sample
from multimodal_ai.data.processing import ProcessingConfig
from multimodal_ai.data.rows import load_rows
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.evaluation.calls import describe_call
from multimodal_ai.evaluation.common import Example, calls_of, question_of, source_of, to_request
from multimodal_ai.evaluation.saved_examples import write_examples
from multimodal_ai.functions.schema import canonical_json
from multimodal_ai.inference.engine import Engine
from multimodal_ai.models import MultimodalModel
from multimodal_ai.training.config import TrainConfig
from multimodal_ai.training.metrics import Evaluation
from multimodal_ai.utils.logger import get_logger

if TYPE_CHECKING:
    from multimodal_ai.data.messages import Message
    from multimodal_ai.inference.requests import Reply

logger = get_logger(__name__)
MAX_TOKENS = 96


@dataclass
class GeneratedExamples:
    """Evaluation hook: answers the first `config.eval.examples` samples of each held-out source.

    folder: of the run; the examples are kept there for its report.
    """

    samples: dict[str, list[Sample]]
    tokenizer: Tokenizer
    processing: ProcessingConfig
    folder: Path

    def __call__(self, step: int, model: nn.Module) -> Evaluation:
        """Texts `examples/<source>` as a table, images under the same numbers, and the share answered exactly."""
        engine = Engine(cast(MultimodalModel, model), self.tokenizer, self.processing)
        images = ImageProcessor(self.processing.image)
        result = Evaluation()
        kept: dict[str, list[Example]] = {}
        for source, samples in self.samples.items():
            pairs = [to_request(sample, max_tokens=MAX_TOKENS) for sample in samples]
            replies = engine.generate([request for request, _ in pairs])
            kept[source] = [
                _example(sample, reply, reference)
                for sample, reply, (_, reference) in zip(samples, replies, pairs, strict=True)
            ]
            exact = [example.correct for example in kept[source]]
            result.metrics[f"{source}/examples_exact"] = sum(exact) / max(len(exact), 1)
            rows = ["| | asked | expected | given |", "|---|---|---|---|"]
            for number, example in enumerate(kept[source], 1):
                cells = (example.question, *(_in_words(example, given) for given in (False, True)))
                rows.append(f"| {number} | " + " | ".join(_cell(cell) for cell in cells) + " |")
                for image in example.images[:1]:
                    picture = images.load(image).permute(1, 2, 0).numpy()
                    result.images[f"examples/{source}/{number}"] = np.ascontiguousarray(picture)[None]
            result.text[f"examples/{source}"] = "\n".join(rows)
        try:
            write_examples(self.folder, step, kept)
        except OSError as error:  # a full disk; they still go to the trackers
            logger.error("the examples of step %d were not kept: %s", step, error)
        return result


def generated_examples(config: TrainConfig, tokenizer: Tokenizer) -> GeneratedExamples:
    """The hook of a stage; for `run_training(..., hooks=[generated_examples])`. Plain text is left out."""
    samples: dict[str, list[Sample]] = {}
    for name, source in config.eval.sources.items():
        rows = load_rows(source.path)
        found: list[Sample] = []
        for index in range(len(rows)):
            if len(found) >= config.eval.examples:
                break
            sample = Sample.from_row(rows[index], f"row {index + 1:,} of {Path(source.path).name}")
            if sample.task != "text" and (source.tasks is None or sample.task in source.tasks):
                found.append(sample)
        if found:
            samples[name] = found
    plain = config.data.image.model_copy(update={"augment": None})
    processing = ProcessingConfig(image=plain, rendering=config.data.rendering)
    return GeneratedExamples(samples, tokenizer, processing, config.output_dir)


def _example(sample: Sample, reply: Reply, reference: Message) -> Example:
    example = Example(
        suite="training",
        question=question_of(sample.messages),
        expected=reference.text,
        given=reply.content,
        correct=False,
        images=list(sample.images),
        expected_calls=[{"name": call.name, "arguments": dict(call.arguments)} for call in calls_of(reference)],
        calls=[describe_call(call) for call in reply.calls],
        source=source_of(sample),
    )
    return replace(example, correct=_in_words(example, given=True) == _in_words(example, given=False))


def _in_words(example: Example, given: bool) -> str:
    text, calls = (example.given, example.calls) if given else (example.expected, example.expected_calls)
    return " ".join([text, *(f"{call['name']}({canonical_json(call['arguments'])})" for call in calls)]).strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:300] or "(nothing)"
