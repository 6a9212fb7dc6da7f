"""Turns an image of any kind into the patches that the vision encoder reads, at its own aspect ratio.

The image is resized (uint8, antialiased bicubic) to a grid of whole patches that fits the budget and keeps the
aspect as well as such a grid can. The grid follows from height and width alone, so lengths are known before
any pixel is decoded. Nothing here crops: what stands at the edge of a receipt is kept. Pixels stay uint8;
the model normalises them.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from multimodal_ai.data.augmentation import AugmentConfig, augment
from multimodal_ai.data.image_files import (
    ImageError,
    ImageLimits,
    ImageSource,
    decode_image,
)
from multimodal_ai.utils.config import ConfigModel
from multimodal_ai.utils.logger import get_logger

__all__ = [
    "AugmentConfig",
    "ImageConfig",
    "ImageError",
    "ImageProcessor",
    "ImageSource",
    "ProcessedImage",
    "Quarantine",
    "choose_grid",
]

logger = get_logger(__name__)


class ImageConfig(ConfigModel):
    """How images become patches, and which are refused."""

    patch_size: int = Field(default=8, ge=1, le=64, description="side of a patch, in pixels")
    max_patches: int = Field(default=64, ge=1, le=65_536, description="most patches of one image")
    merge: int = Field(default=2, ge=1, le=8, description="rows and columns of the grid are multiples of this")
    upscale: bool = Field(default=False, description="enlarge a small image until it fills max_patches")
    min_side: int = Field(default=1, ge=1, description="refuse an image whose shorter side has fewer pixels")
    max_pixels: int = Field(default=64 * 2**20, ge=1, le=160_000_000, description="refuse an image with more pixels")
    max_bytes: int = Field(default=32 * 2**20, ge=1, description="refuse a file with more bytes")
    augment: AugmentConfig | None = Field(default=None, description="random changes in training; none by default")

    @model_validator(mode="after")
    def _one_cell_fits(self) -> ImageConfig:
        if self.max_patches < self.merge**2:
            raise ValueError(
                f"max_patches is {self.max_patches}, but the smallest grid of merge {self.merge} has "
                f"{self.merge**2} patches; raise max_patches or lower merge"
            )
        return self


@dataclass(frozen=True)
class ProcessedImage:
    """Patches of one image: `uint8[N, 3 * patch * patch]`, row by row from the top left, N = rows * columns.

    A patch is its `[3, patch, patch]` pixels (all of red, then green, then blue) laid out flat.
    """

    patches: torch.Tensor
    grid: tuple[int, int]

    @cached_property
    def key(self) -> str:
        """Hash of grid and pixels (BLAKE2b, 32 hex digits): equal images have equal keys, whatever the file."""
        digest = hashlib.blake2b(f"{self.grid[0]}x{self.grid[1]}:".encode(), digest_size=16)
        digest.update(self.patches.numpy().tobytes())
        return digest.hexdigest()


class ImageProcessor:
    """Makes patches of images as one `ImageConfig` says. Holds no state: safe to share and to pickle."""

    def __init__(self, config: ImageConfig | None = None) -> None:
        self.config = config or ImageConfig()
        self.limits = ImageLimits(self.config.max_bytes, self.config.max_pixels, self.config.min_side)

    def load(self, source: ImageSource) -> torch.Tensor:
        """The whole image as `uint8[3, H, W]`, upright, at its own size. Raises ImageError with the reason."""
        return decode_image(source, self.limits)

    def grid_for(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches that an image of this size gets."""
        config = self.config
        return choose_grid(
            height, width, config.patch_size, config.max_patches, merge=config.merge, upscale=config.upscale
        )

    def __call__(self, source: ImageSource, rng: torch.Generator | None = None) -> ProcessedImage:
        """Patches of an image. `rng` given means training: the configured augmentation is drawn from it."""
        image = decode_image(source, self.limits, target=self._size_for)
        height, width = self._size_for(image.shape[1], image.shape[2])
        image = resize(image, height, width)
        if rng is not None and self.config.augment is not None:
            image = augment(image, self.config.augment, rng)
        size = self.config.patch_size
        rows, columns = height // size, width // size
        # Contiguous first: a copy by plane and one of whole rows are faster than one of single bytes.
        patches = image.contiguous().view(3, rows, size, columns, size).permute(1, 3, 0, 2, 4)
        return ProcessedImage(patches.reshape(rows * columns, 3 * size * size), (rows, columns))

    def _size_for(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = self.grid_for(height, width)
        return rows * self.config.patch_size, columns * self.config.patch_size


def resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """`uint8[3, H, W]` to `uint8[3, height, width]`, antialiased bicubic; the same tensor if the size fits."""
    if image.shape[1:] == (height, width):
        return image
    return F.interpolate(image[None], (height, width), mode="bicubic", antialias=True, align_corners=False)[0]


@lru_cache(maxsize=65_536)
def choose_grid(
    height: int, width: int, patch_size: int, max_patches: int, merge: int = 2, upscale: bool = False
) -> tuple[int, int]:
    """The grid (rows, columns) that keeps the aspect ratio and the size of an image best.

    Both are multiples of `merge`, and their product is at most `max_patches`. An image that is already such a
    grid of whole patches keeps its pixels. Without `upscale` a side grows by less than one merge cell
    (`patch_size * merge` pixels); with it the image fills the budget.

    The cost of a grid is |log of the change of aspect| + ½ |log of the change of area| against the area wanted:
    that of the image, or of the budget where the image is larger.
    """
    if min(height, width, patch_size, merge) < 1 or max_patches < merge**2:
        raise ValueError(
            f"no grid for {width}x{height} pixels with patch_size {patch_size}, merge {merge}, "
            f"max_patches {max_patches}; sizes must be positive and max_patches at least merge * merge"
        )
    cell, budget = patch_size * merge, max_patches // merge**2
    tall, wide = height / cell, width / cell  # size of the image in cells
    aspect = wide / tall
    area = budget if upscale else min(budget, tall * wide)
    most_rows = budget if upscale else min(budget, math.ceil(tall))
    most_columns = budget if upscale else math.ceil(wide)
    best, best_cost = (1, 1), math.inf
    for rows in range(1, most_rows + 1):
        limit = min(budget // rows, most_columns)
        near = rows * aspect
        for columns in {max(1, min(math.floor(near), limit)), max(1, min(math.ceil(near), limit))}:
            cost = abs(math.log(columns / near)) + 0.5 * abs(math.log(rows * columns / area))
            if cost < best_cost - 1e-9:
                best, best_cost = (rows, columns), cost
    return best[0] * merge, best[1] * merge


class Quarantine:
    """Sets bad images aside and counts them; past a rate it raises, because then the data is wrong.

    The rate is bad / max(seen, `grace`): one bad image among the first few is no reason to stop.
    """

    def __init__(self, max_rate: float = 0.01, grace: int = 200, listed: int = 20) -> None:
        if not 0 <= max_rate <= 1:
            raise ValueError(f"max_rate is {max_rate}; it is a share, from 0 (none is allowed) to 1 (all are)")
        self.max_rate, self.grace, self.listed = max_rate, grace, listed
        self.seen = 0
        self.bad = 0
        self.examples: list[str] = []

    def load(
        self,
        processor: ImageProcessor,
        source: ImageSource,
        where: str = "",
        rng: torch.Generator | None = None,
    ) -> ProcessedImage | None:
        """The processed image, or None for a bad one, which is counted and logged with `where` it stands.

        Raises ImageError when more than `max_rate` of the images are bad.
        """
        self.seen += 1
        try:
            return processor(source, rng)
        except ImageError as error:
            self.add(f"{where}: {error}" if where else str(error))
            return None

    def add(self, problem: str) -> None:
        """Counts one bad image (already counted as seen), raising past the rate."""
        self.bad += 1
        if len(self.examples) < self.listed:
            self.examples.append(problem)
            logger.warning("quarantined: %s", problem)
        if self.bad > self.max_rate * max(self.seen, self.grace):
            raise ImageError(
                f"{self.bad:,} of {self.seen:,} images cannot be used, more than the allowed share of "
                f"{self.max_rate:.1%}; repair the data (`multimodal-ai data validate`) or raise the rate. "
                "First ones:\n  " + "\n  ".join(self.examples[:5])
            )

    def summary(self) -> str:
        """One line for the log at the end."""
        return f"{self.bad:,} of {self.seen:,} images quarantined"
