"""Decodes one image of any supported kind to uint8 RGB, and refuses what is too big before decoding it.

JPEG goes through simplejpeg, everything else (and the JPEGs that simplejpeg cannot read, such as CMYK) through
Pillow. EXIF rotation is applied, transparency is laid on white, grey becomes RGB, 16 bits are scaled to 8.
Bytes come from strangers: whatever a decoder raises leaves here as an ImageError that says what was wrong,
and no pixel is decoded before the size in bytes and in pixels has been checked.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError

ImageSource = str | Path | bytes | Image.Image | np.ndarray | torch.Tensor | Mapping[str, object]
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
ORIENTATION_TAG = 0x0112
Target = Callable[[int, int], tuple[int, int]]


class ImageError(ValueError):
    """An image cannot be used; the message says which, why, and what to do about it."""


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before decoding: sizes in bytes (of the file) and in pixels (width x height)."""

    max_bytes: int
    max_pixels: int
    min_side: int

    def check_bytes(self, size: int) -> None:
        if size == 0:
            raise ImageError("the file is empty; replace it or drop the row")
        if size > self.max_bytes:
            raise ImageError(
                f"{size:,} bytes is more than max_bytes ({self.max_bytes:,}); make the file smaller or raise max_bytes"
            )

    def check_size(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise ImageError(
                f"{width}x{height} is {width * height:,} pixels, more than max_pixels ({self.max_pixels:,}); "
                "scale the image down or raise max_pixels"
            )
        if min(width, height) < self.min_side:
            raise ImageError(
                f"{width}x{height} pixels: the shorter side is below min_side ({self.min_side}); "
                "drop the image or lower min_side"
            )


def decode_image(source: ImageSource, limits: ImageLimits, target: Target | None = None) -> torch.Tensor:
    """Any source to `uint8[3, H, W]`, upright RGB (channels last in memory).

    Args:
        source: a path, the bytes of a file, a Pillow image, an array `[H, W]` or `[H, W, 1|3|4]` (uint8, uint16,
            or float in 0..1), a tensor `uint8[3, H, W]`, or a mapping with `bytes` or `path`.
        target: maps the (height, width) of the upright image to the size it will be resized to. A larger
            JPEG is then decoded at a half, a quarter or an eighth of its size, whichever is the smallest with each
            side at least twice the target. (Other eighths take longer than the whole.)

    Raises:
        ImageError: for anything that cannot be used, with the reason.
    """
    try:
        pixels = _decode(source, limits, target)
    except ImageError as error:
        raise ImageError(f"{describe_source(source)}: {error}") from error.__cause__
    if isinstance(pixels, torch.Tensor):
        return pixels
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)


def describe_source(source: object) -> str:
    """A short name of a source for messages: its path, or its kind and size."""
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, bytes):
        return f"image of {len(source):,} bytes"
    if isinstance(source, Image.Image):
        return f"Pillow image of mode {source.mode}"
    if isinstance(source, np.ndarray | torch.Tensor):
        return f"image array {tuple(source.shape)} of {source.dtype}"
    if isinstance(source, Mapping):
        path, data = source.get("path"), source.get("bytes")
        return str(path) if path else describe_source(data) if isinstance(data, bytes) else "image"
    return f"image given as {type(source).__name__}"


def _decode(source: ImageSource, limits: ImageLimits, target: Target | None) -> np.ndarray | torch.Tensor:
    if isinstance(source, Mapping):
        data, path = source.get("bytes"), source.get("path")
        if isinstance(data, bytes | bytearray | memoryview):
            return _decode_file(bytes(data), limits, target)
        if isinstance(path, str | Path) and str(path):
            return _decode_file(_read(Path(path), limits), limits, target)
        raise ImageError("expected `bytes` or `path` in the mapping; give one of them")
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode_file(bytes(source), limits, target)
    if isinstance(source, str | Path):
        return _decode_file(_read(Path(source), limits), limits, target)
    if isinstance(source, Image.Image):
        limits.check_size(*source.size)
        try:
            return upright(_to_rgb(source), _orientation(source))
        except ImageError:
            raise
        except Exception as error:  # decoders raise anything on bytes that are not what they seem
            raise ImageError(f"cannot be decoded ({_reason(error)}); replace it or drop the row") from error
    if isinstance(source, np.ndarray):
        return _from_array(source, limits)
    if isinstance(source, torch.Tensor):
        if source.dtype != torch.uint8 or source.ndim != 3 or source.shape[0] != 3:
            raise ImageError("a tensor must be uint8[3, H, W]")
        limits.check_size(source.shape[2], source.shape[1])
        return source
    raise ImageError("give a path, bytes, a Pillow image, an array or a mapping with `bytes` or `path`")


def _read(path: Path, limits: ImageLimits) -> bytes:
    try:
        limits.check_bytes(path.stat().st_size)
        with path.open("rb") as file:
            return file.read(limits.max_bytes + 1)
    except FileNotFoundError:
        raise ImageError("no such file; correct the path (relative ones count from the dataset file)") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot be read ({_reason(error)})") from error


def _decode_file(data: bytes, limits: ImageLimits, target: Target | None) -> np.ndarray:
    limits.check_bytes(len(data))
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"not one of the formats {', '.join(FORMATS)} (it begins with {data[:8]!r}), or damaged at its "
            "very start; convert it or drop the row"
        ) from error
    except Exception as error:  # decoders raise anything on bytes that are not what they seem
        raise ImageError(f"cannot be opened ({_reason(error)}); replace it or drop the row") from error
    with image:
        limits.check_size(*image.size)
        try:
            orientation = 1
            if image.format in ("JPEG", "MPO"):
                orientation = _orientation(image)
                if image.mode in ("RGB", "L"):
                    pixels = _decode_jpeg(data, image.size, orientation, target)
                    if pixels is not None:
                        return upright(pixels, orientation)
            pixels = _to_rgb(image)
            return upright(pixels, orientation if image.format in ("JPEG", "MPO") else _orientation(image))
        except ImageError:
            raise
        except Exception as error:  # as above: truncated and damaged data end here
            raise ImageError(f"cannot be decoded ({_reason(error)}); replace it or drop the row") from error


def _decode_jpeg(data: bytes, size: tuple[int, int], orientation: int, target: Target | None) -> np.ndarray | None:
    """`uint8[H, W, 3]` as stored, or None where only Pillow may still read the file."""
    min_height = min_width = 0  # the whole
    if target is not None:
        width, height = size
        turned = orientation >= 5
        wanted = target(width, height) if turned else target(height, width)
        least_height, least_width = (2 * side for side in (reversed(wanted) if turned else wanted))
        for scale in (8, 4, 2):
            scaled_height, scaled_width = -(-height // scale), -(-width // scale)
            if scaled_height >= least_height and scaled_width >= least_width:
                min_height, min_width = scaled_height, scaled_width
                break
    try:
        return simplejpeg.decode_jpeg(data, "RGB", min_height=min_height, min_width=min_width)
    except ValueError:
        return None


def _to_rgb(image: Image.Image) -> np.ndarray:
    """`uint8[H, W, 3]` of any Pillow mode, transparency laid on white."""
    if image.mode.startswith("I"):
        return _from_integers(image)
    if image.mode == "F":
        raise ImageError("float pixels have no agreed range; convert to 8 bit first")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        page.alpha_composite(layer)
        image = page
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _from_integers(image: Image.Image) -> np.ndarray:
    """Grey of 16 bits (modes I;16 and I) scaled to 8, where converting by Pillow would cut off above 255."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError("grey values outside 0 to 65,535; convert to 8 or 16 bit first")
    grey = _to_eight_bits(values.astype(np.uint32))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey = np.where(values == clear, np.uint8(255), grey)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    return ((values.astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)


def _from_array(array: np.ndarray, limits: ImageLimits) -> np.ndarray:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError("an array must be [H, W] or [H, W, C] with 1, 3 or 4 channels")
    limits.check_size(array.shape[1], array.shape[0])
    if array.dtype == np.uint16:
        array = _to_eight_bits(array)
    elif array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ImageError("a float array must lie within 0 to 1; divide it by its maximum or give uint8")
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise ImageError("an array must be uint8, uint16, bool, or float within 0 to 1")
    if array.shape[2] == 4:
        return _to_rgb(Image.fromarray(np.ascontiguousarray(array), "RGBA"))
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata must not cost the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns `[H, W, 3]` as stored into `[H', W', 3]` as meant by the EXIF orientation (a view, no copy)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def encoded_bytes(source: ImageSource) -> bytes:
    """An image as the bytes of a file: those it has, or a PNG made of its pixels. Raises ImageError."""
    if isinstance(source, Mapping):
        data = source.get("bytes")
        source = bytes(data) if isinstance(data, bytes | bytearray | memoryview) else Path(str(source.get("path")))
    if isinstance(source, bytes):
        return source
    if isinstance(source, str | Path):
        try:
            return Path(source).read_bytes()
        except (OSError, ValueError) as error:
            raise ImageError(f"{source}: cannot be read ({_reason(error)}); correct the path") from error
    pixels = decode_image(source, ImageLimits(max_bytes=2**31, max_pixels=2**28, min_side=1))
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return buffer.getvalue()
