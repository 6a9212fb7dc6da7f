"""How the inputs of a trained model were prepared: kept beside its weights, so that serving prepares them alike."""

from __future__ import annotations

import json
from pathlib import Path

from multimodal_ai.data.image_processor import ImageConfig
from multimodal_ai.data.rendering import RenderingConfig
from multimodal_ai.utils.config import ConfigModel

PROCESSING_FILE = "processing.json"


class ProcessingConfig(ConfigModel):
    """What a trained folder keeps besides the model: how inputs were prepared, and what calibration fitted.

    trigger_temperature: what the trigger's logits are divided by. retrieval_weights: what cosine and word overlap are
    multiplied with when functions are searched without being listed; None: the function head's own weights.
    """

    image: ImageConfig = ImageConfig()
    rendering: RenderingConfig = RenderingConfig()
    trigger_temperature: float = 1.0
    retrieval_weights: tuple[float, float] | None = None

    @property
    def calibrated(self) -> bool:
        """Whether anything was fitted."""
        return self.trigger_temperature != 1 or self.retrieval_weights is not None

    def save(self, folder: Path) -> None:
        """Write processing.json."""
        (folder / PROCESSING_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ProcessingConfig:
        """Read processing.json; ValueError where it is missing."""
        path = folder / PROCESSING_FILE
        if not path.is_file():
            raise ValueError(f"{folder}: no {PROCESSING_FILE} here; give the folder of a trained model")
        return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
