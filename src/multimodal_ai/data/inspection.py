"""A rendered sample taken apart for a person: what is context, what is trained, what was copied from where.

It shows the very ids that training sees and nothing that was tokenised a second time, so that a mask which is
off by one token is off on the screen too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from multimodal_ai.data.examples import TRIGGERS, Example
from multimodal_ai.data.rendering import Card
from multimodal_ai.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from multimodal_ai.functions.schema import FunctionSpec

Kind = Literal["special", "card", "system", "user", "assistant", "result", "image", "trained", "copied", "untrained"]
_ROLES: tuple[Kind, ...] = ("card", "system", "user", "assistant", "result", "image")  # as in rendering


@dataclass(frozen=True)
class Segment:
    """Neighbouring tokens of one kind: their text, their kind, and how many they are.

    "trained" and "copied" tokens stand in the target with a loss weight above 0; "copied" ones also stand
    verbatim in the source. "untrained" ones stand in the target without.
    """

    text: str
    kind: Kind
    tokens: int


def source_segments(example: Example, tokenizer: Tokenizer) -> list[Segment]:
    """What the encoder reads: the conversation, with image slots counted and not spelled out."""
    source = example.source
    pieces = [
        _piece(token, space, _ROLES[role], tokenizer)
        for token, space, role in zip(source.ids, source.space, source.role, strict=True)
    ]
    return list(_joined(pieces))


def card_segments(cards: Sequence[Card], tokenizer: Tokenizer) -> list[list[Segment]]:
    """What the encoder reads of each function."""
    return [
        list(
            _joined(
                [_piece(token, space, "card", tokenizer) for token, space in zip(card.ids, card.space, strict=True)]
            )
        )
        for card in cards
    ]


def target_segments(example: Example, tokenizer: Tokenizer) -> list[Segment]:
    """What the decoder writes, label by label, by whether it is trained."""
    target = example.target
    pieces: list[tuple[bytes, Kind, bool]] = []
    for token, weight, copied in zip(target.labels, target.weight, target.copy, strict=True):
        kind: Kind = "untrained" if weight == 0 else "copied" if copied >= 0 else "trained"
        special = token < len(SPECIAL_TOKENS)
        text = SPECIAL_TOKENS[token].encode() if special else tokenizer.token_bytes(token)
        pieces.append((text, kind, special))
    return list(_joined(pieces))


def label_lines(example: Example, specs: Sequence[FunctionSpec]) -> list[str]:
    """The labels of the heads in words: decision, function, which parameters are given."""
    lines = []
    if example.trigger >= 0:
        lines.append(f"decision: {TRIGGERS[example.trigger]}")
    if example.selection is not None:
        shares = zip([*(spec.name for spec in specs), "(none of them)"], example.selection, strict=True)
        lines.append("function: " + ", ".join(f"{name} {share:g}" for name, share in shares if share > 0))
    for spec, presence in zip(specs, example.presence, strict=False):
        given = [name for name, value in zip(spec.parameter_names, presence, strict=True) if value == 1]
        left_out = [name for name, value in zip(spec.parameter_names, presence, strict=True) if value == 0]
        if given or left_out:
            lines.append(
                f"{spec.name}: given {', '.join(given) or 'nothing'}; left out {', '.join(left_out) or 'nothing'}"
            )
    return lines


def _piece(token: int, space: bool, kind: Kind, tokenizer: Tokenizer) -> tuple[bytes, Kind, bool]:
    if token < len(SPECIAL_TOKENS):
        return SPECIAL_TOKENS[token].encode(), "image" if kind == "image" else "special", True
    return (b" " if space else b"") + tokenizer.token_bytes(token), kind, False


def _joined(pieces: Sequence[tuple[bytes, Kind, bool]]) -> Iterator[Segment]:
    """Neighbours of one kind as one segment; special tokens stand alone, except that images are counted."""
    start = 0
    while start < len(pieces):
        text, kind, special = pieces[start]
        end = start + 1
        while end < len(pieces) and pieces[end][1:] == (kind, special) and (not special or kind == "image"):
            text += pieces[end][0]
            end += 1
        if kind == "image":
            text = f"{pieces[start][0].decode()} × {end - start}".encode()
        yield Segment(text.decode(errors="replace"), kind, end - start)
        start = end
