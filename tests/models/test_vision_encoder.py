"""The stem sees pixels, each image by itself, whatever stands beside it in the batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from multimodal_ai.models.attention import Packing
from multimodal_ai.models.describe import multiply_adds
from multimodal_ai.models.vision_encoder import Stem, VisionConfig, convolution_strides, similar_grids

grids = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4)


def stem(patch_size: int) -> Stem:
    torch.manual_seed(0)
    return Stem(VisionConfig(width=16, layers=1, heads=2, kv_heads=1, hidden=16, patch_size=patch_size))


def patches_of(images: list[Tensor], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, uint8[3, H, W] each, as padded patches, grids and positions."""
    shapes = [(image.shape[1] // size, image.shape[2] // size) for image in images]
    most = max(rows * columns for rows, columns in shapes)
    patches = torch.randint(0, 256, (len(images), most, 3 * size**2), dtype=torch.uint8)  # what pads must not matter
    positions = torch.zeros(len(images), most, 2, dtype=torch.long)
    for number, (image, (rows, columns)) in enumerate(zip(images, shapes, strict=True)):
        cut = image.view(3, rows, size, columns, size).permute(1, 3, 0, 2, 4).reshape(rows * columns, -1)
        patches[number, : rows * columns] = cut
        positions[number, : rows * columns] = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    return patches, torch.tensor(shapes), positions


def run(layer: Stem, images: list[Tensor], size: int) -> list[Tensor]:
    patches, shapes, positions = patches_of(images, size)
    lengths = shapes.prod(-1)
    rows = layer(patches, shapes, positions, Packing(lengths, int(lengths.max())))
    return list(rows[: int(lengths.sum())].split(lengths.tolist()))


@given(grids, st.sampled_from([4, 6, 8]))
@settings(max_examples=25, deadline=None)
@torch.inference_mode()
def test_an_image_is_the_same_alone_and_beside_others(shapes: list[tuple[int, int]], size: int) -> None:
    layer = stem(size)
    images = [torch.randint(0, 256, (3, rows * size, columns * size), dtype=torch.uint8) for rows, columns in shapes]
    together = run(layer, images, size)
    for image, beside in zip(images, together, strict=True):
        torch.testing.assert_close(run(layer, [image], size)[0], beside, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_vector_sees_pixels_before_its_patch_but_not_the_whole_image() -> None:
    layer, size = stem(8), 8
    image = torch.zeros(3, 8, 48, dtype=torch.uint8)
    changed = image.clone()
    changed[:, :, 15] = 255  # the last column of the second patch
    before, after = run(layer, [image], size)[0], run(layer, [changed], size)[0]
    differs = (before != after).any(-1).tolist()
    assert differs[1] and differs[2] and not differs[0] and not differs[5]


@pytest.mark.parametrize("size", [1, 2, 3, 8, 14, 16])
def test_strides_make_up_the_patch(size: int) -> None:
    assert math.prod(convolution_strides(size)) == size
    layer = stem(size)
    image = torch.randint(0, 256, (3, 2 * size, 3 * size), dtype=torch.uint8)
    assert run(layer, [image], size)[0].shape == (6, 16)
    with FlopCounterMode(display=False) as counter:
        run(layer, [image], size)
    assert counter.get_total_flops() == 2 * 6 * multiply_adds(layer)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=30))
def test_images_of_a_group_are_padded_by_at_most_half(shapes: list[tuple[int, int]]) -> None:
    groups = similar_grids(shapes)
    assert sorted(number for group in groups for number in group) == list(range(len(shapes)))
    for group in groups:
        held = [shapes[number] for number in group if math.prod(shapes[number])]
        padded = len(held) * max((r for r, _ in held), default=0) * max((c for _, c in held), default=0)
        assert padded <= 1.5 * sum(map(math.prod, held))


def test_a_line_does_not_pay_for_a_receipt() -> None:
    layer, small = stem(8), [torch.zeros(3, 8, 64, dtype=torch.uint8)] * 6
    flops = []
    for images in (small, [*small, torch.zeros(3, 320, 160, dtype=torch.uint8)]):
        with FlopCounterMode(display=False) as counter:
            run(layer, images, 8)
        flops.append(counter.get_total_flops() / sum(image.numel() for image in images))
    assert flops[1] == pytest.approx(flops[0])
