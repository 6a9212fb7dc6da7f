"""Each source changes its images in its own way, or in the way of the stage."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from multimodal_ai.data.augmentation import AugmentConfig, augment
from multimodal_ai.data.dataset import DataConfig, MicroBatches
from multimodal_ai.data.messages import Sample
from multimodal_ai.data.recipes.common import caption_row
from multimodal_ai.data.tokenizer import Tokenizer


def left_half() -> bytes:
    pixels = np.full((16, 32, 3), 40, dtype=np.uint8)
    pixels[:, :16] = 200
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("own", "stage", "changed"),
    [
        (None, None, False),
        (None, {"brightness": 0.5}, True),
        ({}, {"brightness": 0.5}, False),
        ({"noise": 0.2}, None, True),
    ],
)
def test_a_source_has_its_own_changes_or_those_of_the_stage(
    tmp_path: Path, small_tokenizer: Tokenizer, own: dict | None, stage: dict | None, changed: bool
) -> None:
    rows = [caption_row("halves", left_half(), f"picture {number}") for number in range(4)]
    Dataset.from_list([Sample.from_row(row).to_row() for row in rows]).to_parquet(tmp_path / "rows.parquet")
    image = {"patch_size": 8, "merge": 1, "augment": stage}
    source = {"path": str(tmp_path / "rows.parquet"), "augment": own}
    config = DataConfig.model_validate({"sources": {"halves": source}, "image": image})
    batches = MicroBatches(config, small_tokenizer, seed=1, global_size=4, micro_size=4)
    patches = batches[0].patches[batches[0].grids.prod(-1) > 0]
    assert (len(patches) > 1) is changed, "equal images stand in a batch once"
    assert changed or set(patches.flatten().tolist()) == {40, 200}


def test_mirroring_turns_every_other_image_around_and_nothing_else() -> None:
    image = torch.arange(48, dtype=torch.uint8).view(3, 4, 4)
    seen = [augment(image, AugmentConfig(mirror=True), torch.Generator().manual_seed(seed)) for seed in range(200)]
    turned = [torch.equal(one, image.flip(-1)) for one in seen]
    assert all(flag or torch.equal(one, image) for flag, one in zip(turned, seen, strict=True))
    assert 70 < sum(turned) < 130
