"""`/v1/embeddings`: texts and images as vectors of length one in one space.

Besides OpenAI's texts an input may be an image part, `{"type": "image_url", "image_url": {"url": "data:…"}}`. A text
that is too long is refused, never cut.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from multimodal_ai.data.image_processor import ProcessedImage
from multimodal_ai.inference.engine import Engine
from multimodal_ai.inference.scheduler import Scheduler
from multimodal_ai.serving.config import ServerConfig
from multimodal_ai.serving.errors import ApiError
from multimodal_ai.serving.images import image_bytes
from multimodal_ai.serving.protocol import ImagePart, Strict, check_count

AT_ONCE = 16  # inputs between two steps of generation


class EmbeddingsRequest(Strict):
    """The body of `POST /v1/embeddings`."""

    model: str
    input: str | ImagePart | list[str | ImagePart] = Field(description="texts and images; token ids are not taken")
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, description="the model's own width, or left out")
    user: str | None = None


async def embeddings(body: EmbeddingsRequest, config: ServerConfig, scheduler: Scheduler) -> dict[str, Any]:
    """The list of embeddings. Raises ApiError, ImageError, QueueFull and TimeoutError."""
    engine = scheduler.engine
    inputs = list(body.input) if isinstance(body.input, list) else [body.input]
    check_count("input", len(inputs), config.max_inputs)
    if not inputs:
        raise ApiError(400, "input: give at least one text or image", "invalid_value", "input")
    width = engine.model.config.head.width
    if body.dimensions not in (None, width):
        raise ApiError(400, f"dimensions: this model's embeddings have {width}", "invalid_value", "dimensions")
    ready, tokens = await run_in_threadpool(_prepared, inputs, config, engine)
    vectors: list[np.ndarray] = []
    async with asyncio.timeout(config.request_seconds):
        for start in range(0, len(ready), AT_ONCE):
            part = ready[start : start + AT_ONCE]
            vectors += await asyncio.wrap_future(scheduler.call(partial(_embedded, engine, part)))
    data = [
        {"object": "embedding", "index": number, "embedding": _encoded(vector, body.encoding_format)}
        for number, vector in enumerate(vectors)
    ]
    used = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": config.model_name, "usage": used}


def _prepared(
    inputs: Sequence[str | ImagePart], config: ServerConfig, engine: Engine
) -> tuple[list[str | ProcessedImage], int]:
    """Texts checked, images decoded; and how many tokens and patches all of it has."""
    most = engine.processing.rendering.max_card - 1
    ready: list[str | ProcessedImage] = []
    total = 0
    for index, given in enumerate(inputs):
        place = f"input[{index}]"
        if isinstance(given, str):
            if not given:
                raise ApiError(400, f"{place}: empty; give a text", "invalid_value", "input")
            size = len(engine.renderer.text_card(given, given).ids)
            if size > most:
                message = f"{place}: more than {most} tokens; split the text"
                raise ApiError(400, message, "context_length_exceeded", "input")
            ready.append(given)
        else:
            url = given.image_url.url
            image = engine.encoder.images(image_bytes(url, place, config.max_image_bytes, config.fetch_images))
            size = len(image.patches)
            ready.append(image)
        total += size
    return ready, total


def _embedded(engine: Engine, inputs: Sequence[str | ProcessedImage]) -> list[np.ndarray]:
    """float32[E] of each input, in order; runs in the scheduler's thread."""
    texts = [given for given in inputs if isinstance(given, str)]
    images = [given for given in inputs if not isinstance(given, str)]
    of_texts = iter(engine.embed_texts(texts).float().cpu().numpy() if texts else ())
    of_images = iter(engine.embed_images(images).float().cpu().numpy() if images else ())
    return [next(of_texts) if isinstance(given, str) else next(of_images) for given in inputs]


def _encoded(vector: np.ndarray, form: str | None) -> str | list[float]:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(value) for value in vector]
