"""A tokenizer and models small enough for every test, built once."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from multimodal_ai.data.dataset import DataConfig, MicroBatches
from multimodal_ai.data.image_processor import ImageConfig, ImageProcessor
from multimodal_ai.data.messages import Sample
from multimodal_ai.data.processing import ProcessingConfig
from multimodal_ai.data.recipes import RECIPES, RecipeContext
from multimodal_ai.data.rendering import Renderer, RenderingConfig
from multimodal_ai.data.text_files import texts_of_sample
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.inference.engine import Engine
from multimodal_ai.models import ModelConfig, MultimodalModel

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)  # tests run side by side

SMALL_PROCESSING = ProcessingConfig(
    image=ImageConfig(patch_size=8, max_patches=80),
    rendering=RenderingConfig(max_source=400, max_target=300, max_card=300),
)


def small_stack(**changes: Any) -> dict[str, Any]:
    """A stack that is real in every respect but size."""
    return {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 48, **changes}


@pytest.fixture(scope="session")
def samples() -> dict[str, list[Sample]]:
    """A few real samples of each quickstart recipe."""
    context = RecipeContext(limit=60)
    return {name: list(RECIPES[name].build(context, "train")) for name in ("digits", "function_cards", "easy_vqa")}


@pytest.fixture(scope="session")
def small_tokenizer(samples: dict[str, list[Sample]]) -> Tokenizer:
    return Tokenizer.train((text for found in samples.values() for s in found for text in texts_of_sample(s)), 600)


@pytest.fixture(scope="session")
def image_processor() -> ImageProcessor:
    return ImageProcessor(SMALL_PROCESSING.image)


@pytest.fixture(scope="session")
def renderer(small_tokenizer: Tokenizer) -> Renderer:
    return Renderer(small_tokenizer, SMALL_PROCESSING.rendering)


def build_model(tokenizer: Tokenizer, fusion: str = "projection", seed: int = 0) -> MultimodalModel:
    """A random model whose residual outputs are not zero, so that every part matters."""
    torch.manual_seed(seed)
    config = ModelConfig.model_validate(
        {
            "vocab_size": tokenizer.vocab_size,
            "vision": small_stack(width=24, patch_size=8, heads=2, kv_heads=1),
            "text": small_stack(),
            "decoder": small_stack(),
            "fusion": {"kind": fusion, "latents": 3},
            "head": {"width": 16},
        }
    )
    model = MultimodalModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2 and not parameter.any():
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model.eval()


@pytest.fixture
def small_model(small_tokenizer: Tokenizer) -> MultimodalModel:
    return build_model(small_tokenizer)


@pytest.fixture
def engine(small_model: MultimodalModel, small_tokenizer: Tokenizer) -> Engine:
    return Engine(small_model, small_tokenizer, SMALL_PROCESSING)


@pytest.fixture(scope="session")
def mixed_data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """All quickstart recipes as files: a mix with images, functions, captions and plain text."""
    from multimodal_ai.data.recipes import write_recipe

    folder: Path = tmp_path_factory.mktemp("mixed")
    sources = {}
    for name in ("digits", "function_cards", "easy_vqa", "stdlib_text"):
        path = write_recipe(name, folder, splits=["train"], limit=40)["train"]
        sources[name] = {"path": path}
    return DataConfig.model_validate(
        {
            "sources": sources,
            "image": {"patch_size": 8, "max_patches": 80},
            "rendering": {"max_source": 400, "max_target": 300, "max_card": 300},
        }
    )


@pytest.fixture
def micro_batches(mixed_data: DataConfig, small_tokenizer: Tokenizer) -> Any:
    """`micro_batches(global_size, micro_size, rank, world)`, all over the same mix and seed."""

    def make(global_size: int = 8, micro_size: int = 8, rank: int = 0, world: int = 1) -> MicroBatches:
        return MicroBatches(
            mixed_data, small_tokenizer, seed=5, global_size=global_size, micro_size=micro_size, rank=rank, world=world
        )

    return make


@pytest.fixture
def rng() -> random.Random:
    return random.Random(0)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KB; a checkpoint of the toy model of tests/training takes about 100."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(mount)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)
