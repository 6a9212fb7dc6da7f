"""Strings that a call may only copy: runs of whole words of the conversation, and the values that it spells out.

A grammar made from them cannot write a word that nobody wrote. It never looks at what a string means, so a value
that has to be inferred or put in other words cannot be given under it.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multimodal_ai.functions.canonical import canonical_json
from multimodal_ai.functions.normalise import Form, form_of, read
from multimodal_ai.functions.provenance import text_of
from multimodal_ai.functions.schema import FunctionSpec

_LONGEST = 4000  # characters of the conversation, its end: more takes the engine longer than a step of the model
_BREAK = "\n"  # as it stands no JSON string holds it, so that no run crosses it
# blanks, a word, its apostrophes and a number's points included, or a mark
_CHUNK = re.compile(r"\s+|\w+(?:['’]\w+|(?<=\d)[.,:](?=\d)\w+)*|[^\w\s]")
_FORMS = (Form("%Y-%m-%d"), Form("%H:%M"), Form())


@dataclass(frozen=True)
class CopiedStrings:
    """`chunks`: words, marks and the blanks between them, each blank a single space, escaped as in JSON; `values`: what
    the text spells out, as JSON.
    """

    chunks: tuple[str, ...]
    values: tuple[str, ...]

    @classmethod
    def of(
        cls, messages: Sequence[Mapping[str, Any]], specs: Sequence[FunctionSpec], today: datetime.date
    ) -> CopiedStrings:
        """Read the last 4,000 characters of a conversation in the chat-completions shape, whoever wrote them.

        Dates and times are written as ISO 8601 does, and in the forms that parameters of `specs` describe; numbers as
        plain decimals. `today`: the day that "tomorrow" is counted from.
        """
        forms = {form_of(spec.parameter_schema(name)) for spec in specs for name in spec.parameter_names}
        wanted = sorted({*_FORMS, *(form for form in forms if form is not None)}, key=lambda form: form.pattern)
        pieces, values, left = list[list[str]](), list[str](), _LONGEST
        for message in reversed(messages):
            words = list[str]()
            for word in reversed(_CHUNK.findall(text_of(message.get("content")).strip())):
                left -= len(word)
                if left < 0:
                    break
                words.append(word)
            words.reverse()
            facts = [fact for reading in read("".join(words), today) for fact in reading.facts]
            values += [text for fact in facts for form in wanted if (text := form.write(fact)) is not None]
            pieces.append([*(" " if word.isspace() else canonical_json(word)[1:-1] for word in words), _BREAK])
            if left < 0:
                break
        chunks = tuple(chunk for piece in reversed(pieces) for chunk in piece)
        return cls(chunks, tuple(canonical_json(value) for value in dict.fromkeys(values)))

    def rules(self, name: str) -> list[str]:
        """Rules of llguidance's Lark for one such string in quotes.

        No run begins or ends with a blank. "" is the only string where the conversation holds no word. What a run may
        hold is said by its edges alone, nothing by its length: a limit in the middle of a word would leave no way on.
        """
        runs = any(chunk != _BREAK for chunk in self.chunks)
        ways = [r'"\"" COPIED_RUN "\""'] * runs + [json.dumps(value) for value in self.values]
        lines = [f"{name}: " + " | ".join(ways or [r'"\"\""'])]
        if runs:
            lines += [
                "COPIED_RUN: COPIED_WORDS & COPIED_EDGES",
                "COPIED_WORDS: %regex " + json.dumps({"substring_chunks": self.chunks}),
                r"COPIED_EDGES: /[^ \n]([^\n]*[^ \n])?/",
            ]
        return lines
