"""A model saved, loaded and saved again has identical logits and identical files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from multimodal_ai.data.processing import ProcessingConfig
from multimodal_ai.models import MultimodalModel


@torch.inference_mode()
def test_files_and_outputs_stay_the_same(small_model: MultimodalModel, micro_batches: Any, tmp_path: Path) -> None:
    batch = micro_batches(8, 8)[0]
    small_model.save_pretrained(tmp_path / "a")
    loaded = MultimodalModel.from_pretrained(tmp_path / "a")
    assert torch.equal(small_model(batch).decoder_states, loaded(batch).decoder_states)
    assert torch.equal(small_model(batch).scores.trigger, loaded(batch).scores.trigger)
    loaded.save_pretrained(tmp_path / "b")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["config.json", "model.safetensors"]


def test_the_temperature_is_kept_exactly(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ProcessingConfig(trigger_temperature=1.7320508075688772).save(tmp_path / "a")
    loaded = ProcessingConfig.load(tmp_path / "a")
    assert loaded.trigger_temperature == 1.7320508075688772
    loaded.save(tmp_path / "b")
    assert (tmp_path / "a/processing.json").read_bytes() == (tmp_path / "b/processing.json").read_bytes()
