"""Images of every supported kind become the right pixels, bad ones are refused, grids keep the aspect."""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from multimodal_ai.data.image_files import ImageLimits, decode_image
from multimodal_ai.data.image_processor import (
    AugmentConfig,
    ImageConfig,
    ImageError,
    ImageProcessor,
    Quarantine,
    choose_grid,
    resize,
)
from multimodal_ai.utils.config import ConfigError, parse_config

processor = ImageProcessor()


def picture(width: int = 48, height: int = 32, mode: str = "RGB") -> Image.Image:
    """A smooth picture in which no two corners look alike."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + 2 * y) % 256]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8), "RGB").convert(mode)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy().astype(int)


def farthest(image: torch.Tensor, expected: Image.Image) -> int:
    return int(np.abs(pixels(image) - np.asarray(expected.convert("RGB")).astype(int)).max())


# --- formats -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("PNG", {"interlace": 1})],
)
def test_lossless_formats_give_the_exact_pixels(format: str, options: dict[str, object]) -> None:
    image = processor.load(encode(picture(), format, **options))
    assert image.dtype == torch.uint8
    assert image.shape == (3, 32, 48)
    assert farthest(image, picture()) == 0


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_gives_the_pixels_pillow_gives(mode: str, options: dict[str, object]) -> None:
    data = encode(picture(mode=mode), "JPEG", **options)
    assert farthest(processor.load(data), Image.open(io.BytesIO(data))) <= 1


def test_cmyk_jpeg() -> None:
    data = encode(picture(mode="CMYK"), "JPEG", quality=95)
    assert farthest(processor.load(data), picture()) <= 24


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    for format in ("GIF", "WEBP", "PNG"):
        data = encode(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
        assert farthest(processor.load(data), frames[0]) <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_and_palettes(mode: str) -> None:
    image = picture(mode=mode)
    assert farthest(processor.load(encode(image, "PNG")), image) == 0


def test_alpha_is_laid_on_white() -> None:
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    image.paste((0, 100, 0, 255), (0, 0, 4, 8))
    image.putpixel((7, 7), (0, 0, 0, 128))
    for data in (encode(image, "PNG"), encode(image, "WEBP", lossless=True, exact=True)):
        loaded = pixels(processor.load(data))
        assert loaded[0, 0].tolist() == [0, 100, 0]
        assert loaded[0, 5].tolist() == [255, 255, 255]
        assert abs(loaded[7, 7] - 127).max() <= 1


def test_grey_with_alpha_and_palette_with_transparency() -> None:
    grey = Image.new("LA", (4, 4), (10, 0))
    assert pixels(processor.load(encode(grey, "PNG"))).min() == 255
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([0, 0, 0] * 3 + [9, 8, 7])
    palette.putpixel((0, 0), 1)
    for format in ("PNG", "GIF"):
        loaded = pixels(processor.load(encode(palette, format, transparency=3)))
        assert loaded[0, 0].tolist() == [0, 0, 0]
        assert loaded[2, 2].tolist() == [255, 255, 255]
    partly = encode(palette, "PNG", transparency=bytes([255, 255, 255, 128]))
    assert pixels(processor.load(partly))[2, 2].tolist() == [132, 131, 131]


def test_transparent_colour_of_an_rgb_png() -> None:
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    image.putpixel((0, 0), (9, 9, 9))
    loaded = pixels(processor.load(encode(image, "PNG", transparency=(1, 2, 3))))
    assert loaded[0, 0].tolist() == [9, 9, 9]
    assert loaded[1, 1].tolist() == [255, 255, 255]


def test_sixteen_bit_grey_is_scaled_not_cut_off() -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    expected = np.round(values / 65535 * 255)
    for source in (encode(Image.fromarray(values), "PNG"), Image.fromarray(values), values):
        loaded = pixels(processor.load(source))
        assert np.abs(loaded - expected[:, :, None]).max() <= 1
        assert loaded[0, 0, 0] == 0
        assert loaded[-1, -1, 0] == 255


def test_sixteen_bit_colour() -> None:
    """Pillow cannot write one, so the file is made by hand."""
    row = b"\x00" + struct.pack(">HHH", 0, 32768, 65535) * 4
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 4, 2, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * 2)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    assert pixels(processor.load(data))[1, 3].tolist() == [0, 128, 255]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(), format, exif=exif, quality=100, **({"lossless": True} if format == "WEBP" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    loaded = processor.load(data)
    assert loaded.shape[1:] == (expected.height, expected.width)
    assert farthest(loaded, expected) <= 1
    assert farthest(processor.load(Image.open(io.BytesIO(data))), expected) <= 1
    assert processor(data).grid == ((6, 4) if orientation >= 5 else (4, 6))


def test_every_kind_of_source(tmp_path: Path) -> None:
    data = encode(picture(), "PNG")
    file = tmp_path / "picture.png"
    file.write_bytes(data)
    array = np.asarray(picture())
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    sources = [str(file), file, data, picture(), array, array / 255.0, tensor]
    sources += [{"bytes": data, "path": None}, {"bytes": data, "path": "gone.png"}, {"path": str(file), "bytes": None}]
    keys = {processor(source).key for source in sources}
    assert len(keys) == 1
    assert farthest(processor.load(array[:, :, 0]), picture().getchannel(0)) == 0
    transparent = np.dstack([array, np.zeros_like(array[:, :, :1])])
    assert pixels(processor.load(transparent)).min() == 255


# --- refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "empty"),
        (b"not an image at all", "not one of the formats JPEG, PNG"),
        (encode(picture(), "TIFF"), "not one of the formats"),
        (encode(picture(), "PPM"), "not one of the formats"),
        ("missing/file.png", r"missing/file\.png: no such file"),
        ({"path": None, "bytes": None}, "expected `bytes` or `path`"),
        (3.5, "given as float"),
        (np.zeros((4, 4, 2), np.uint8), "1, 3 or 4 channels"),
        (np.full((4, 4), 7.0), "within 0 to 1"),
        (np.full((4, 4), np.nan), "within 0 to 1"),
        (np.zeros((4, 4), np.int64), "uint8, uint16"),
        (torch.zeros(3, 4, 4), r"uint8\[3, H, W\]"),
        (Image.new("F", (4, 4)), "float pixels"),
    ],
)
def test_bad_sources_say_why(source: object, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        processor(source)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_truncated_file_is_refused_wherever_it_ends(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), format)
    for share in (0.02, 0.3, 0.6, 0.9):
        with pytest.raises(ImageError):
            processor(data[: int(len(data) * share)])


@given(
    position=st.integers(0, 400),
    value=st.binary(min_size=1, max_size=4),
    format=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]),
)
def test_damaged_bytes_never_raise_anything_else(position: int, value: bytes, format: str) -> None:
    data = bytearray(encode(picture(), format))
    position %= len(data)
    data[position : position + len(value)] = value
    with contextlib.suppress(ImageError):
        processor(bytes(data))


def test_bombs_are_refused_before_decoding() -> None:
    bomb = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)), (b"IDAT", b"")):
        bomb += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    with pytest.raises(ImageError, match="pixels"):
        processor(bomb)
    small = ImageProcessor(ImageConfig(max_pixels=1000, max_bytes=2000, min_side=8))
    for format in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
        with pytest.raises(ImageError, match=r"48x32 is 1,536 pixels, more than max_pixels \(1,000\)|max_bytes"):
            small(encode(picture(), format))
    for source in (picture(), np.asarray(picture())):
        with pytest.raises(ImageError, match="max_pixels"):
            small(source)
    with pytest.raises(ImageError, match="min_side"):
        small(picture(7, 30))


def test_a_file_too_big_is_never_read(tmp_path: Path) -> None:
    file = tmp_path / "big.png"
    file.write_bytes(b"\x00" * 3000)
    with pytest.raises(ImageError, match=r"big\.png: 3,000 bytes is more than max_bytes \(2,000\)"):
        ImageProcessor(ImageConfig(max_bytes=2000))(file)


def test_unknown_config_key_and_impossible_budget() -> None:
    with pytest.raises(ConfigError, match=r"patch_siz: unknown key.*patch_size"):
        parse_config(ImageConfig, {"patch_siz": 8})
    with pytest.raises(ConfigError, match="max_patches is 3"):
        parse_config(ImageConfig, {"max_patches": 3})


# --- grid and resizing ---------------------------------------------------------------------------------------


def test_known_grids() -> None:
    assert choose_grid(64, 64, 8, 64) == (8, 8)
    assert choose_grid(32, 160, 8, 80) == (4, 20)
    assert choose_grid(10, 10, 8, 64) == (2, 2)
    assert choose_grid(10, 10, 8, 64, upscale=True) == (8, 8)
    assert choose_grid(4000, 3000, 8, 64) == choose_grid(400, 300, 8, 64) == (8, 6)
    assert choose_grid(100_000, 1, 8, 64) == (32, 2)
    with pytest.raises(ValueError, match="no grid"):
        choose_grid(0, 5, 8, 64)


sides = st.one_of(st.integers(1, 300), st.integers(1, 10_000))


@settings(max_examples=300)
@given(
    height=sides,
    width=sides,
    patch=st.sampled_from([4, 8, 14, 16]),
    cells=st.integers(1, 64),
    merge=st.integers(1, 3),
    upscale=st.booleans(),
)
def test_grids_fit_and_keep_the_aspect(
    height: int, width: int, patch: int, cells: int, merge: int, upscale: bool
) -> None:
    budget = cells * merge**2
    rows, columns = choose_grid(height, width, patch, budget, merge, upscale)
    assert rows % merge == columns % merge == 0
    assert merge <= rows and merge <= columns
    assert rows * columns <= budget
    if not upscale:
        cell = patch * merge
        assert rows * patch < height + cell and columns * patch < width + cell
        if height % cell == width % cell == 0 and height * width <= budget * patch**2:
            assert (rows * patch, columns * patch) == (height, width)
    grown = abs(math.log((columns / rows) / (width / height)))
    if cells >= 16 and 0.25 <= height / width <= 4 and min(height, width) >= 4 * patch * merge:
        assert grown <= math.log(1.5), "the aspect changes by at most a half"


def test_exact_pixels_when_nothing_needs_resizing() -> None:
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    result = processor(image)
    assert result.grid == (8, 8)
    assert result.patches.shape == (64, 192)
    assert result.patches.dtype == torch.uint8
    for row, column in ((0, 0), (2, 5), (7, 7)):
        expected = image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].reshape(-1)
        assert torch.equal(result.patches[row * 8 + column], expected)


@pytest.mark.parametrize("size", [(16, 16), (48, 20), (200, 90), (97, 131)])
def test_resizing_equals_pillows_bicubic(size: tuple[int, int]) -> None:
    noisy = np.random.default_rng(1).integers(0, 256, (75, 101, 3), dtype=np.uint8)
    for source in (Image.fromarray(noisy), picture(101, 75)):
        width, height = size
        ours = resize(processor.load(source), height, width)
        assert ours.shape == (3, height, width)
        assert farthest(ours, source.resize(size, Image.Resampling.BICUBIC)) <= 1


def test_a_large_jpeg_decoded_small_looks_the_same() -> None:
    image = picture(800, 608)
    ImageDraw.Draw(image).line((0, 0, 800, 608), fill="white", width=9)
    data = encode(image, "JPEG", quality=95)
    small, full = processor(data), processor(processor.load(data))
    assert small.grid == full.grid
    assert (small.patches.int() - full.patches.int()).abs().float().mean() < 1.5


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_at_twice_the_target_or_more(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(1600, 400), "JPEG", exif=exif)
    limits = ImageLimits(max_bytes=10**7, max_pixels=10**7, min_side=1)
    target = (32, 128) if orientation == 1 else (128, 32)
    decoded = decode_image(data, limits, target=lambda height, width: target)
    assert tuple(decoded.shape[1:]) == ((100, 400) if orientation == 1 else (400, 100))
    assert decoded.shape[1] >= 2 * target[0] and decoded.shape[2] >= 2 * target[1]
    wide = decode_image(data, limits, target=lambda height, width: (4, 500) if height < width else (500, 4))
    assert max(wide.shape) == 1600, "each side keeps at least twice its own target, and five eighths are never taken"
    edge = decode_image(data, limits, target=lambda height, width: (100, 400) if height < width else (400, 100))
    assert max(edge.shape) == 800, "twice the target is enough"


def test_key_depends_on_pixels_only() -> None:
    first, second = processor(encode(picture(), "PNG")), processor(encode(picture(), "BMP"))
    assert first.key == second.key
    assert first.key != processor(picture().rotate(180)).key
    assert len(first.key) == 32
    wide, tall = np.zeros((16, 32), np.uint8), np.zeros((32, 16), np.uint8)
    assert processor(wide).key != processor(tall).key
    assert pickle.loads(pickle.dumps(processor))(picture()).key == first.key


# --- augmentation --------------------------------------------------------------------------------------------


KINDS = {
    "shift": 0.2,
    "scale": 0.2,
    "rotation": 15,
    "crop": 0.3,
    "brightness": 0.3,
    "contrast": 0.5,
    "jitter": 0.3,
    "noise": 0.1,
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmentation_is_off_by_default_and_without_a_generator() -> None:
    plain = processor(picture())
    off = ImageProcessor(ImageConfig(augment=AugmentConfig()))
    on = ImageProcessor(ImageConfig(augment=AugmentConfig(**KINDS)))
    assert processor(picture(), seeded(1)).key == off(picture(), seeded(1)).key == on(picture()).key == plain.key


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_augmentation_changes_the_image_a_little(kind: str) -> None:
    changed = ImageProcessor(ImageConfig(augment=AugmentConfig(**{kind: KINDS[kind]})))
    plain = processor(picture())
    results = [changed(picture(), seeded(seed)) for seed in range(4)]
    assert len({result.key for result in results}) == 4
    assert [changed(picture(), seeded(seed)).key for seed in range(4)] == [result.key for result in results]
    for result in results:
        assert result.grid == plain.grid
        assert 0 < (result.patches.int() - plain.patches.int()).abs().float().mean() < 60


def test_switching_one_kind_on_does_not_reshuffle_the_others() -> None:
    """A generator that has served an image is in the same state, whichever kinds without noise are on."""
    states = []
    for kinds in ({"shift": 0.1}, {"shift": 0.1, "brightness": 0.2, "rotation": 5}):
        rng = seeded(3)
        ImageProcessor(ImageConfig(augment=AugmentConfig(**kinds)))(picture(), rng)
        states.append(rng.get_state())
    assert torch.equal(*states)


def test_shift_and_rotation_move_what_they_say() -> None:
    dot = np.zeros((64, 64), np.uint8)
    dot[28:36, 28:36] = 255
    for seed in range(8):
        moved = ImageProcessor(ImageConfig(augment=AugmentConfig(shift=0.1)))(dot, seeded(seed)).patches
        image = moved.reshape(8, 8, 3, 8, 8).permute(2, 0, 3, 1, 4).reshape(3, 64, 64).float()
        weight = image[0] / image[0].sum()
        for shape in ((64, 1), (1, 64)):
            centre = (weight * torch.arange(64.0).view(shape)).sum()
            assert abs(centre - 31.5) <= 6.5, "no farther than a tenth of the side"
    y, x = np.mgrid[0:32, 0:96]
    disc = ((y - 15.5) ** 2 + (x - 47.5) ** 2 < 100).astype(np.uint8) * 255
    turned = ImageProcessor(ImageConfig(max_patches=64, augment=AugmentConfig(rotation=45)))(disc, seeded(0)).patches
    weight = turned.reshape(4, 12, 3, 8, 8)[:, :, 0].permute(0, 2, 1, 3).reshape(32, 96).double()
    weight /= weight.sum()
    spread_y = (weight * torch.from_numpy((y - 15.5) ** 2)).sum()
    spread_x = (weight * torch.from_numpy((x - 47.5) ** 2)).sum()
    assert abs(spread_y / spread_x - 1) < 0.1, "a turned disc stays round in an image that is not square"


# --- quarantine ----------------------------------------------------------------------------------------------


def test_quarantine_counts_and_then_raises() -> None:
    quarantine = Quarantine(max_rate=0.1, grace=10)
    good, bad = encode(picture(), "PNG"), b"junk"
    assert quarantine.load(processor, good) is not None
    assert quarantine.load(processor, bad, where="row 2 of train.jsonl") is None
    assert (quarantine.seen, quarantine.bad) == (2, 1)
    assert quarantine.summary() == "1 of 2 images quarantined"
    with pytest.raises(ImageError, match=r"2 of 3 images cannot be used, more than.*10\.0%(.|\n)*row 2 of train"):
        quarantine.load(processor, bad, where="row 3 of train.jsonl")


def test_quarantine_tolerates_the_rate_over_many() -> None:
    quarantine = Quarantine(max_rate=0.1, grace=10)
    for index in range(100):
        quarantine.load(processor, b"junk" if index % 10 == 9 else np.zeros((16, 16), np.uint8))
    assert (quarantine.seen, quarantine.bad) == (100, 10)
    with pytest.raises(ImageError):
        Quarantine(max_rate=0).load(processor, b"junk")
    with pytest.raises(ValueError, match="max_rate is 2"):
        Quarantine(max_rate=2)
