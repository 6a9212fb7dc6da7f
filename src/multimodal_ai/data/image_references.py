"""The spellings in which a row or a message may give an image, made into those that ImageProcessor reads.

A path, bytes, Base64, a `data:` or `file:` URL, or an object with `path` or `bytes`, as `datasets` stores it.
Nothing is opened or fetched here.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from multimodal_ai.data.rows import DataError, is_inline_image
from multimodal_ai.functions.canonical import short_json

_PICTURES = (bytes, Image.Image, np.ndarray, torch.Tensor)


def images_of_row(row: Mapping[str, Any]) -> list[Any]:
    """The images that a row lists, under `images` or as one under `image`. Raises DataError."""
    images = row.get("images")
    if images is None:
        single = row.get("image")
        images = [] if single is None else [single]
    if not isinstance(images, list | tuple):
        raise DataError(f"images: expected a list, got {short_json(str(images))}")
    return [image_reference(image, f"images[{index}]") for index, image in enumerate(images)]


def image_reference(image: Any, place: str) -> Any:
    """An image in the form that ImageProcessor reads: Base64 becomes bytes, `file:` URLs become paths."""
    if isinstance(image, Mapping):
        data, path = image.get("bytes"), image.get("path")
        image = data if data is not None else path
    if isinstance(image, str) and is_inline_image(image):
        head, comma, body = image.partition(",")
        if image.startswith("data:") and (not comma or not head.endswith(";base64")):
            raise DataError(f"{place}: {head[:60]}: expected data:image/…;base64,…")
        try:
            return base64.b64decode("".join((body if comma else image).split()), validate=True)
        except ValueError as error:
            raise DataError(f"{place}: not Base64 ({error}); encode the image again") from None
    if isinstance(image, str) and image.startswith("file:"):
        return image.removeprefix("file://").removeprefix("file:")
    if isinstance(image, Path):
        return str(image)
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, (str, *_PICTURES)) or (isinstance(image, str) and not image):
        raise DataError(f"{place}: expected a path, bytes or an object with `path` or `bytes`, got {str(image)[:60]!r}")
    return image
