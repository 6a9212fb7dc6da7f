"""Word overlap between a request and function cards: the BM25 score that the head takes as a feature.

It works on words, not tokens, knows no model, and depends only on the request and the cards given.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from multimodal_ai.functions.schema import FunctionSpec

_WORD = re.compile(r"[^\W\d_]+|\d+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_COMMON = frozenset(
    word
    for line in (
        "a an and are as at be by can could do for from has have i in is it its me my of on or please that the this to",
        "was what which will with would you your",
    )
    for word in line.split()
)


def words(text: str) -> list[str]:
    """Lower-case words without very common ones; camelCase and snake_case come apart, endings are trimmed."""
    found = []
    for word in _WORD.findall(_CAMEL.sub(" ", text)):
        word = word.lower()
        if word in _COMMON:
            continue
        for ending in ("ing", "ies", "es", "ed", "s", "e", "y"):
            if word.endswith(ending) and len(word) - len(ending) >= 3:
                word = word.removesuffix(ending)
                break
        found.append(word)
    return found


@lru_cache(maxsize=8192)
def _card_words(spec: FunctionSpec) -> Counter[str]:
    described = [str(spec.parameter_schema(name).get("description", "")) for name in spec.parameter_names]
    return Counter(words(" ".join((spec.name, spec.description, *spec.parameter_names, *described))))


class LexicalIndex:
    """BM25 (Robertson & Zaragoza, 2009) of requests over a fixed set of functions, for thousands of them.

    Document frequencies are those of the given functions, smoothed as if each word stood in one more
    card of ten, so that a single function gets a score too.
    """

    def __init__(self, specs: Sequence[FunctionSpec], k1: float = 1.2, b: float = 0.75) -> None:
        cards = [_card_words(spec) for spec in specs]
        lengths = np.array([card.total() for card in cards], dtype=np.float64)
        average = (lengths.mean() if len(cards) else 0.0) or 1.0
        self.size, self._k1 = len(cards), k1
        self._norm = k1 * (1 - b + b * lengths / average)  # [F]
        postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, card in enumerate(cards):
            for word, count in card.items():
                postings[word].append((number, count))
        self._postings = {word: np.array(found).T for word, found in postings.items()}  # word: int[2, cards with it]

    def scores(self, request: str) -> NDArray[np.float64]:
        """Float[F], BM25 divided by the number of query words: about 0 to 2; 0 without any common word."""
        query = sorted(set(words(request)))
        found = np.zeros(self.size)
        for word in query:
            if word in self._postings:
                card, count = self._postings[word]
                rarity = math.log1p((self.size + 10 - len(card)) / (len(card) + 0.5))
                found[card] += rarity * count * (self._k1 + 1) / (count + self._norm[card])
        return found / max(len(query), 1)


@lru_cache(maxsize=16)
def _index(specs: tuple[FunctionSpec, ...]) -> LexicalIndex:
    return LexicalIndex(specs)


def lexical_scores(request: str, specs: Sequence[FunctionSpec]) -> list[float]:
    """The score of each function for the request, see `LexicalIndex`; the index of the last few sets is kept."""
    return _index(tuple(specs)).scores(request).tolist()
