"""Generated examples inside the training loop: what the model answers now, to look at in TensorBoard.

A hook for `training.run.run_training`. It asks the engine as a user would, through the same requests as the
suites, always about the same held-out samples; it never changes the model. The numbers are rough (a few
samples); the suites measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from torch import nn

from multimodal_ai.data.image_processor import ImageProcessor
from multimodal_ai.data.messages import Sample
from multimodal_ai.data.processing import ProcessingConfig
from multimodal_ai.data.rows import load_rows
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.evaluation.common import calls_of, question_of, to_request
from multimodal_ai.functions.schema import canonical_json
from multimodal_ai.inference.engine import Engine
from multimodal_ai.models import MultimodalModel
from multimodal_ai.training.config import TrainConfig
from multimodal_ai.training.metrics import Evaluation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multimodal_ai.data.messages import Message
    from multimodal_ai.inference.requests import Reply

MAX_TOKENS = 96


@dataclass
class GeneratedExamples:
    """Evaluation hook: answers the first `config.eval.examples` samples of each held-out source."""

    samples: dict[str, list[Sample]]
    tokenizer: Tokenizer
    processing: ProcessingConfig

    def __call__(self, step: int, model: nn.Module) -> Evaluation:
        """Texts `examples/<source>` as a table, first images, and the share answered exactly."""
        engine = Engine(cast(MultimodalModel, model), self.tokenizer, self.processing)
        images = ImageProcessor(self.processing.image)
        result = Evaluation()
        for source, samples in self.samples.items():
            pairs = [to_request(sample, max_tokens=MAX_TOKENS) for sample in samples]
            replies = engine.generate([request for request, _ in pairs])
            references = [reference for _, reference in pairs]
            result.metrics[f"{source}/examples_exact"] = _share_exact(replies, references)
            rows = ["| asked | expected | given |", "|---|---|---|"]
            for sample, reply, reference in zip(samples, replies, references, strict=True):
                cells = (question_of(sample.messages), _expected(reference), _given(reply))
                rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
            result.text[f"examples/{source}"] = "\n".join(rows)
            shown = next((sample.images[0] for sample in samples if sample.images), None)
            if shown is not None:
                picture = images.load(shown).permute(1, 2, 0).numpy()
                result.images[f"examples/{source}"] = np.ascontiguousarray(picture)[None]
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
    return GeneratedExamples(samples, tokenizer, ProcessingConfig(image=plain, rendering=config.data.rendering))


def _expected(reference: Message) -> str:
    calls = " ".join(f"{call.name}({canonical_json(call.arguments)})" for call in calls_of(reference))
    return f"{reference.text} {calls}".strip()


def _given(reply: Reply) -> str:
    calls = " ".join(f"{call.name}({canonical_json(call.arguments)})" for call in reply.calls)
    return f"{reply.content} {calls}".strip()


def _share_exact(replies: Sequence[Reply], references: Sequence[Message]) -> float:
    exact = [_given(reply) == _expected(reference) for reply, reference in zip(replies, references, strict=True)]
    return sum(exact) / max(len(exact), 1)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:300] or "(nothing)"
