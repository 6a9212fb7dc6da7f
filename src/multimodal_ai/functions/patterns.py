"""Regular expressions of schemas, matched in linear time.

A `pattern` is written by whoever wrote the schema, and Python's `re` needs exponential time for some of them
(`^(a+)+$`). Matching therefore goes through llguidance's derivative-based engine, the same one that
constrains generation, so what is generated and what is accepted agree. `re` is never run on a value.
"""

from __future__ import annotations

from functools import lru_cache

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from multimodal_ai.functions.canonical import canonical_json

_MAX_PATTERN_LENGTH = 1_000
# Enough for real patterns (dates, codes, e-mail), small enough that a counted bomb stops within milliseconds.
_LIMITS = LLParserLimits(initial_lexer_fuel=200_000, max_lexer_states=20_000, verbose_errors=False)


@lru_cache(maxsize=1)
def _byte_tokenizer() -> LLTokenizer:
    return LLTokenizer("byte", slices=[])


@lru_cache(maxsize=512)
def _matcher(pattern: str) -> LLMatcher:
    schema = {"type": "string", "pattern": pattern}
    return LLMatcher(_byte_tokenizer(), LLMatcher.grammar_from_json_schema(schema), log_level=0, limits=_LIMITS)


def pattern_problem(pattern: object) -> str:
    """Say why a pattern cannot be used, or return an empty string when it can."""
    if not isinstance(pattern, str):
        return "expected a string"
    if len(pattern) > _MAX_PATTERN_LENGTH:
        return f"longer than {_MAX_PATTERN_LENGTH} characters; shorten it"
    matcher = _matcher(pattern)
    if not matcher.is_error():
        return ""
    reason = matcher.get_error().strip().splitlines()[0][:120]
    return f"cannot be matched in linear time (no look-around, no back-references): {reason}"


def matches(pattern: str, value: str) -> bool:
    """Whether `value` contains a match of `pattern`, as JSON Schema's `pattern` defines it (not anchored).

    Linear in the length of `value`. Raises ValueError for a pattern that `pattern_problem` objects to.
    """
    start = _matcher(pattern)
    if start.is_error():
        raise ValueError(f"pattern {pattern!r}: {pattern_problem(pattern)}")
    matcher = start.deep_copy()
    encoded = canonical_json(value).encode()
    # Token ids of the byte tokenizer are the byte values.
    return matcher.try_consume_tokens(list(encoded)) == len(encoded) and matcher.is_accepting()
