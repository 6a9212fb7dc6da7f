"""Bits per byte of plain text: how well the decoder predicts text it has never seen.

The unit is bytes of UTF-8, not tokens, so that models with different tokenizers can be compared. Texts are
scored in pieces without context between them; what ends a text is predicted too and counts as bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from multimodal_ai.data.messages import Sample
from multimodal_ai.evaluation.common import (
    Example,
    Scorer,
    SuiteResult,
    chosen,
    in_batches,
    source_of,
)
from multimodal_ai.evaluation.metrics import bits_per_byte
from multimodal_ai.inference.requests import Request


def run(engine: Scorer, samples: Iterable[Sample], batch_size: int = 16, piece_bytes: int = 400) -> SuiteResult:
    """Score every sample of the task `text`.

    Args:
        piece_bytes: texts are cut into pieces of at most so many bytes, at white space where there is any;
            a piece must fit the decoder.

    Returns:
        Metrics `bits_per_byte`, `bits_per_byte/<source>`, `bytes` and `count` (pieces).

    Raises:
        ValueError: where no sample is plain text.
    """
    texts = chosen(samples, lambda sample: sample.task == "text", "text")
    pieces = [
        (piece, source_of(sample)) for sample in texts for piece in split_text(sample.messages[-1].text, piece_bytes)
    ]
    nats: list[float] = []
    for batch in in_batches(pieces, batch_size, "Scoring text"):
        requests = [Request(messages=[]) for _ in batch]
        nats += [-value for value in engine.score(requests, [piece for piece, _ in batch])]
    sizes = [len(piece.encode()) for piece, _ in pieces]
    result = SuiteResult(metrics={"bits_per_byte": bits_per_byte(nats, sizes)})
    for source in sorted({source for _, source in pieces} - {""}):
        rows = [row for row, (_, of) in enumerate(pieces) if of == source]
        result.metrics[f"bits_per_byte/{source}"] = bits_per_byte(
            [nats[row] for row in rows], [sizes[row] for row in rows]
        )
    result.metrics |= {"bytes": float(sum(sizes)), "count": float(len(pieces))}
    for (piece, source), value, size in zip(pieces, nats, sizes, strict=True):
        bits = bits_per_byte([value], [size])
        result.examples.append(Example("text", piece, "", "", True, source=source, note=f"{bits:.2f} bits per byte"))
    return result


def split_text(text: str, size: int) -> Iterator[str]:
    """Cut a text into pieces of at most `size` UTF-8 bytes that together are the text."""
    if size < 4:
        raise ValueError(f"piece_bytes: expected at least 4, the longest character, got {size}")
    rest = text
    while rest:
        cut = len(rest.encode()[:size].decode(errors="ignore"))
        if cut < len(rest):
            space = max(rest.rfind(" ", 0, cut), rest.rfind("\n", 0, cut))
            cut = space + 1 if space > 0 else cut
        yield rest[:cut]
        rest = rest[cut:]
