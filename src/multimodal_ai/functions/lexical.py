"""Word overlap between a request and function cards: the BM25 score that the head takes as a feature.

It works on words, not tokens, knows no model, and depends only on the request and the cards given.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

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


def lexical_scores(request: str, specs: Sequence[FunctionSpec], k1: float = 1.2, b: float = 0.75) -> list[float]:
    """BM25 (Robertson & Zaragoza, 2009) of each function for the request, divided by the number of query words.

    Document frequencies are those of the given functions, smoothed as if each word stood in one more
    card of ten, so that a single function gets a score too. About 0 to 2; 0 without any common word.
    """
    query = set(words(request))
    cards = [_card_words(spec) for spec in specs]
    if not query or not cards:
        return [0.0] * len(cards)
    average = sum(card.total() for card in cards) / len(cards) or 1.0
    found_in = {word: sum(word in card for card in cards) for word in query}
    scores = []
    for card in cards:
        score = 0.0
        for word in query & card.keys():
            rarity = math.log1p((len(cards) + 10 - found_in[word]) / (found_in[word] + 0.5))
            count = card[word]
            score += rarity * count * (k1 + 1) / (count + k1 * (1 - b + b * card.total() / average))
        scores.append(score / len(query))
    return scores
