"""Keeps secrets out of traces and of messages that go back to a model.

By name (parameters and keys such as `password` or `api_key`) and by form (`Bearer …`, `password=…`, a
password inside an address). It errs on the side of hiding; what it hides is gone, not encrypted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from multimodal_ai.functions.canonical import canonical_json, parse_json

REDACTED = "[redacted]"
# These stand alone as a word (`max_tokens` is no secret); the others may be part of one (`userpassword`).
_WHOLE = frozenset(("token", "pin", "cvv", "otp", "cookie", "credentials"))
_PARTS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
    "authorization",
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# Linear in the length of the text: what they search may be written by anybody.
_FORMS = (
    re.compile(r"(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{12,}"),
    re.compile(r"(?i)\bauthorization\s{0,4}[=:]\s{0,4}(?:basic\s+)?[^\s,;&]+"),
    re.compile(r"(?i)(?:password|passwd|secret|token|api[_-]?key)[\w-]{0,20}\s{0,4}[=:]\s{0,4}[^\s,;&]+"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(r"\b(?:sk|pk|ghp|gho|xox[abp])[-_][A-Za-z0-9_-]{12,}"),
)


def is_secret_name(name: str) -> bool:
    """Whether a parameter or key of this name holds a secret (`api_key`, `userPassword`, `X-Auth-Token`)."""
    words = [word.lower() for word in _WORDS.findall(name)]
    return not _WHOLE.isdisjoint(words) or any(part in "".join(words) for part in _PARTS)


def redact_value(value: Any) -> Any:
    """A copy of a JSON value in which secrets are replaced by `[redacted]`."""
    if isinstance(value, Mapping):
        return {
            key: REDACTED if is_secret_name(str(key)) and item is not None else redact_value(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact_value(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value


def redact_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Text without the given secrets and without what looks like one; JSON is searched by its keys as well."""
    if text[:1] in ("{", "[") and text[-1:] in ("}", "]"):
        try:
            value = parse_json(text)
        except ValueError:
            value = None
        hidden = redact_value(value)
        if hidden != value:
            text = canonical_json(hidden)
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    for form in _FORMS:
        text = form.sub(REDACTED, text)
    return text


def secret_values(value: Any, inside_secret: bool = False) -> list[str]:
    """The strings and numbers that stand under secret names in a JSON value, longest first."""
    found: list[str] = []
    if isinstance(value, Mapping):
        for key, item in value.items():
            found += secret_values(item, inside_secret or is_secret_name(str(key)))
    elif isinstance(value, (list, tuple)):
        for item in value:
            found += secret_values(item, inside_secret)
    elif inside_secret and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        found += [str(value)] if len(str(value)) >= 3 else []
    return sorted(set(found), key=len, reverse=True)
