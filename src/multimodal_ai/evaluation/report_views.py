"""What a report shows of examples, calls and turns: plain data for the template, nothing of HTML.

Text stays as it is here; the template escapes it. Images become data URLs no larger than they are shown.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from multimodal_ai.data.image_processor import ImageConfig, ImageError, ImageProcessor
from multimodal_ai.evaluation.call_metrics import values_equal
from multimodal_ai.evaluation.common import Example

SHOWN_SIDE = 360  # pixels of the longest side of an embedded image
SUITE_TITLES = {
    "calls": "Function calls",
    "vqa": "Questions about images",
    "retrieval": "Retrieval",
    "text": "Text",
}


@dataclass(frozen=True)
class Turn:
    """One step of the transcript of the function loop."""

    role: str  # user, assistant, tool, or approval
    text: str = ""
    calls: Sequence[Mapping[str, Any]] = ()  # name, arguments, and where known confidence and sources
    images: Sequence[Any] = ()
    seconds: float | None = None


def shown_image(source: Any) -> tuple[bytes, str] | None:
    """An image encoded no larger than it is shown, and its kind (png, webp); None where it cannot be read."""
    try:
        pixels = ImageProcessor(ImageConfig()).load(source)  # uint8 [3, H, W]
    except (ImageError, OSError):
        return None
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    buffer = io.BytesIO()
    small = image.width * image.height <= 128 * 128
    image.save(buffer, "PNG") if small else image.save(buffer, "WEBP", quality=80)
    return buffer.getvalue(), "png" if small else "webp"


def image_data_url(source: Any) -> str | None:
    """An image as a data URL no larger than it is shown; None where it cannot be read."""
    found = shown_image(source)
    return None if found is None else f"data:image/{found[1]};base64,{base64.b64encode(found[0]).decode()}"


def format_number(value: float | None) -> str:
    """A number as a person reads it, with three to four digits; a dash where it is undefined."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 10 or abs(value) < 0.001 else f"{value:.3f}"


def format_share(value: float) -> str:
    """A share as a percentage that never rounds up to a full hundred."""
    if not math.isfinite(value):
        return "–"
    return "99.9%" if 0.9995 <= value < 1 else f"{value:.1%}"


def turn_view(turn: Turn) -> dict[str, Any]:
    return {
        "role": turn.role,
        "text": turn.text,
        "calls": [_call_view(call) for call in turn.calls],
        "images": [url for url in map(image_data_url, turn.images) if url],
        "seconds": turn.seconds,
    }


def _call_view(call: Mapping[str, Any], expected: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A call with its arguments as rows; compared with the expected call where there is one."""
    sources = call.get("sources") or {}
    arguments = dict(call.get("arguments") or {})
    wanted = None if expected is None else dict(expected.get("arguments") or {})
    rows = []
    for name, value in arguments.items():
        source = sources.get(name) or {}
        right = wanted is None or (name in wanted and values_equal(value, wanted[name]))
        rows.append(
            {
                "name": name,
                "value": value,
                "right": right,
                "origin": str(source.get("origin", "")).replace("_", " "),
                "copied": source.get("copied"),
                "expected": None if right or wanted is None else wanted.get(name),
                "unasked": wanted is not None and name not in wanted,
            }
        )
    missing = [] if wanted is None else [(name, wanted[name]) for name in wanted if name not in arguments]
    return {
        "name": call["name"],
        "confidence": call.get("confidence"),
        "rows": rows,
        "missing": missing,
        "right": wanted is not None and not missing and all(row["right"] for row in rows),
    }


def _example_view(example: Example) -> dict[str, Any]:
    expected = list(example.expected_calls)
    calls = []
    for call in example.calls:
        same = [other for other in expected if other["name"] == call["name"]]
        match = max(same, key=lambda other: _agreement(call, other)) if same else None
        if match is not None:
            expected.remove(match)
        calls.append(_call_view(call, match) | {"unexpected": match is None})
    return {
        "question": example.question,
        "expected": example.expected,
        "given": example.given,
        "correct": example.correct,
        "images": [url for url in map(image_data_url, example.images) if url],
        "calls": calls,
        "missed": [_call_view(call) for call in expected],
        "expects_call": bool(example.expected_calls),
        "confidence": example.confidence,
        "source": example.source,
        "note": example.note,
    }


def _agreement(left: Mapping[str, Any], right: Mapping[str, Any]) -> int:
    a, b = left.get("arguments") or {}, right.get("arguments") or {}
    return sum(name in b and values_equal(value, b[name]) for name, value in a.items())


def gallery(name: str, examples: Sequence[Example], limit: int) -> dict[str, Any]:
    """Mistakes the model was surest of, then right ones, those with images before those without."""

    def order(example: Example) -> tuple[bool, float]:
        return not example.images, -(example.confidence if example.confidence is not None else 0.5)

    wrong = sorted((example for example in examples if not example.correct), key=order)
    right = sorted((example for example in examples if example.correct), key=order)
    right = right[:: max(len(right) // limit, 1)]  # spread over all of them, not only the surest
    return {
        "title": SUITE_TITLES.get(name, name),
        "count": len(examples),
        "mistakes": sum(not example.correct for example in examples),
        "wrong": [_example_view(example) for example in wrong[:limit]],
        "right": [_example_view(example) for example in right[:limit]],
    }
