"""What copying a word writes where the text spells a value out: at "half past eleven" the pointer writes 11:30.

The pointer attends to source tokens and writes them as they stand, but a parameter that asks for a time cannot take
the words. So each token of a span that states a date, a time or a number writes the next piece of that value in
the parameter's own form. Only what such a span writes changes, never how likely it is to be copied; a parameter
without a form (a plain string) is left alone.
"""

from __future__ import annotations

import datetime
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property

from multimodal_ai.data.rendering import COPYABLE_ROLES, Source
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions.normalise import Form, Reading, read


@dataclass(frozen=True)
class SpelledValue:
    """Source tokens `start` to `end` that write one of `tokens` next, the likeliest first; `agreed` tokens of the
    value have been written already.
    """

    start: int
    end: int
    tokens: tuple[int, ...]
    agreed: int


class SpelledValues:
    """The dates, times and numbers of one source, `today` being the day that "tomorrow" is counted from."""

    def __init__(self, source: Source, tokenizer: Tokenizer, today: datetime.date) -> None:
        self._source, self._tokenizer, self._today = source, tokenizer, today

    @cached_property
    def _read(self) -> tuple[list[int], tuple[Reading, ...]]:
        """Where each token begins in the text, and what stands in it; read when first asked for."""
        pieces, starts, length = list[bytes](), list[int](), 0
        for id, space, role in zip(self._source.ids, self._source.space, self._source.role, strict=True):
            piece = (self._tokenizer.token_bytes(id) if role in COPYABLE_ROLES else b"") or b"\n"
            starts.append(length + space)
            pieces.append(b" " * space + piece)
            length += space + len(piece)
        # one character a byte, so that places in the text are places in the bytes; what is read is ASCII
        return starts, read(b"".join(pieces).decode("latin-1"), self._today)

    def continuing(self, form: Form, written: str) -> list[SpelledValue]:
        """The spans whose value goes on behind what is `written`: JSON text, its opening quote included."""
        if form.pattern and not written.startswith('"'):
            return []
        written = written.removeprefix('"')
        starts, readings = self._read
        agreed = len(self._tokenizer.encode(written)) if written else 0
        found = []
        for reading in readings:
            values = [form.write(fact, written) for fact in reading.facts]
            rests = [value[len(written) :] for value in values if value is not None and value.startswith(written)]
            tokens = tuple(dict.fromkeys(self._tokenizer.encode(rest)[0] for rest in rests if rest))
            if tokens:
                first = max(bisect_right(starts, reading.start) - 1, 0)
                found.append(SpelledValue(first, bisect_left(starts, reading.end), tokens, agreed))
        return found
