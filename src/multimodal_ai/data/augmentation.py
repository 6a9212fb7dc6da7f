"""Random changes of training images that leave their label true: move, zoom, turn, light, colour, noise.

Everything is off by default. One draw of numbers from the given generator decides all of it, and their count
does not depend on what is switched on, so the same generator gives the same image and adding one kind does
not reshuffle the others. Nothing here may mirror an image or change its size: text would be reversed, and the
number of patches must be known before an image is opened.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field

from multimodal_ai.utils.config import ConfigModel


class AugmentConfig(ConfigModel):
    """The furthest each change may go; the amount is drawn evenly between none and that, 0 is off."""

    shift: float = Field(default=0.0, ge=0, le=0.5, description="move by up to this share of the side, each axis")
    scale: float = Field(default=0.0, ge=0, le=0.5, description="zoom by up to this share, in or out")
    rotation: float = Field(default=0.0, ge=0, le=45, description="turn by up to this many degrees, either way")
    crop: float = Field(default=0.0, ge=0, le=0.9, description="cut off up to this share of each axis, then enlarge")
    mirror: bool = Field(default=False, description="mirror every other image left to right: not where text is read")
    brightness: float = Field(default=0.0, ge=0, le=0.9, description="multiply all channels by 1 ± this")
    contrast: float = Field(default=0.0, ge=0, le=0.9, description="multiply the distance from the mean by 1 ± this")
    jitter: float = Field(default=0.0, ge=0, le=0.9, description="multiply each colour channel by its own 1 ± this")
    noise: float = Field(
        default=0.0, ge=0, le=0.5, description="add Gaussian noise of up to this deviation (1 = white)"
    )

    @property
    def moves(self) -> bool:
        return max(self.shift, self.scale, self.rotation, self.crop) > 0

    @property
    def recolours(self) -> bool:
        return max(self.brightness, self.contrast, self.jitter, self.noise) > 0


def augment(image: torch.Tensor, config: AugmentConfig, rng: torch.Generator) -> torch.Tensor:
    """`uint8[3, H, W]` to `uint8[3, H, W]`, the same for the same state of `rng`. What lies beyond the edge
    repeats the edge."""
    u = torch.rand(15, generator=rng).tolist()  # evenly in [0, 1)
    if config.mirror and u[14] < 0.5:
        image = image.flip(-1)
    if not (config.moves or config.recolours):
        return image
    pixels = image[None].float()
    if config.moves:
        matrix = _affine(config, u[:8], image.shape[1], image.shape[2])
        grid = F.affine_grid(matrix[None], [1, 3, *image.shape[1:]], align_corners=False)
        pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if config.recolours:
        gain = 1 + config.brightness * _signed(u[8])
        channels = [gain * (1 + config.jitter * _signed(value)) for value in u[9:12]]
        pixels = pixels * torch.tensor(channels).view(1, 3, 1, 1)
        if config.contrast:
            mean = pixels.mean()
            pixels = (pixels - mean) * (1 + config.contrast * _signed(u[12])) + mean
        if config.noise:
            spread = 255 * config.noise * u[13]
            pixels = pixels + torch.randn(pixels.shape, generator=rng) * spread
    return pixels[0].round_().clamp_(0, 255).to(torch.uint8)


def _affine(config: AugmentConfig, u: list[float], height: int, width: int) -> torch.Tensor:
    """`float[2, 3]`: where in the input (coordinates -1 to 1) each output position is read."""
    keep_x, keep_y = 1 - config.crop * u[0], 1 - config.crop * u[1]
    zoom = 1 / (1 + config.scale * _signed(u[2]))
    centre_x = (1 - keep_x) * _signed(u[3]) + 2 * config.shift * _signed(u[4])
    centre_y = (1 - keep_y) * _signed(u[5]) + 2 * config.shift * _signed(u[6])
    angle = math.radians(config.rotation) * _signed(u[7])
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor(
        [
            [zoom * keep_x * cos, -zoom * keep_y * sin * height / width, centre_x],
            [zoom * keep_x * sin * width / height, zoom * keep_y * cos, centre_y],
        ]
    )


def _signed(value: float) -> float:
    """Maps [0, 1) to [-1, 1)."""
    return 2 * value - 1
