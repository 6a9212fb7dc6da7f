"""Reads a call's bytes as they arrive: where in the JSON are we, and what has been said so far.

A state machine over bytes, without regular expressions and without a second pass, so any way of cutting the
stream into pieces gives the same events. It follows well-formed JSON and reports the first byte that breaks
it; what a value may be is the grammar's and the validator's business, not this module's.
"""

from __future__ import annotations

import codecs
import json
from typing import Any

_QUOTE, _BACKSLASH, _COMMA, _COLON = 0x22, 0x5C, 0x2C, 0x3A
_OPEN = frozenset(b"{[")
_CLOSE = {ord("}"): ord("{"), ord("]"): ord("[")}
_SPACE = frozenset(b" \t\r\n")
_MAX_DEPTH = 256
# What the next byte outside a string may be.
_VALUE, _KEY, _AFTER_KEY, _AFTER_VALUE, _SCALAR, _END = range(6)


class CallScanner:
    """Follows one `{"name":"…","arguments":{…}}`. Feed it with `push`; read the attributes at any time.

    `name`: the function's name once its string is closed, else None; `name_prefix`: what is there of it.
    `state`: "arguments" from the first byte of the arguments' object on, "name" before that.
    `parameter`: the top-level argument whose value is being written; None outside values.
    `value_start`: no character of the current value (inside lists and objects: of the current scalar) has
    been written yet; its opening quote does not count.
    `in_string`: inside a string that is a value (the name, or anything in the arguments).
    `key_prefix`: inside, or right before, a top-level argument's key: what is there of it; else None.
    `value_text`: the JSON text of that argument's value so far, "" outside values.
    `written`: top-level arguments that are there already, in order.
    `error`: why the bytes are no call, or None.
    """

    def __init__(self) -> None:
        self.state = "name"
        self.name: str | None = None
        self.name_prefix = ""
        self.parameter: str | None = None
        self.key_prefix: str | None = None
        self.written: tuple[str, ...] = ()
        self.value_start = False
        self.in_string = False
        self.error: str | None = None
        self._stack = bytearray()
        self._expect = _VALUE
        self._in_text = False
        self._is_key = False
        self._escape = False
        self._text = bytearray()
        self._outer_key = ""
        self._arguments = bytearray()
        self._arguments_end = False
        self._value_from = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes) -> str:
        """Take the next bytes; returns the part of the arguments' JSON text that they complete."""
        if self.error is not None:
            return ""
        start = len(self._arguments)
        for position, byte in enumerate(data):
            if self._in_text:
                if self._escape:
                    self._escape = False
                elif byte == _BACKSLASH:
                    self._escape = True
                elif byte == _QUOTE:
                    self._close_string()
                    self._keep(byte)
                    continue
                self._text.append(byte)
                self._keep(byte)
                self.value_start = False
            elif not self._structure(byte):
                shown = bytes(data[position : position + 20]).decode("utf-8", "replace")
                self.error = self.error or f"not JSON from {shown!r} on"
                break
        if self._in_text and len(self._stack) <= 2:
            self._show_prefix()
        return self._decoder.decode(bytes(self._arguments[start:]))

    @property
    def is_complete(self) -> bool:
        """Whether the outer object is closed."""
        return self._expect == _END and self.error is None

    def arguments(self) -> dict[str, Any]:
        """The arguments as a dict; where a key is repeated the last one counts, as for any reader of JSON.

        Raises ValueError when the call is not complete or is no call.
        """
        if self.error is not None or not self.is_complete or self.name is None or not self._arguments_end:
            raise ValueError(self.error or "the call ends in the middle")
        try:
            value = json.loads(self._arguments.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the arguments are not JSON: {error}") from None
        if not isinstance(value, dict):
            raise ValueError("the arguments are no JSON object")
        return value

    @property
    def value_text(self) -> str:
        """What is there of the value of `parameter`."""
        return self._arguments[self._value_from :].decode("utf-8", "replace") if self.parameter is not None else ""

    def arguments_text(self) -> str:
        """The arguments' JSON text so far, byte for byte as it was written."""
        return self._arguments.decode("utf-8", "replace")

    def _keep(self, byte: int) -> None:
        if self.state == "arguments" and not self._arguments_end:
            self._arguments.append(byte)

    def _structure(self, byte: int) -> bool:
        """One byte outside a string; False where it cannot stand."""
        expect = self._expect
        if expect == _SCALAR and (byte == _COMMA or byte in _CLOSE or byte in _SPACE):
            self._value_done()
            expect = self._expect
        if byte in _SPACE:
            self._keep(byte)
            return True
        if expect == _SCALAR:
            self._keep(byte)
            return True
        if byte == _QUOTE:
            return self._open_string(expect)
        if byte in _OPEN:
            return self._open_container(byte, expect)
        if byte in _CLOSE:
            return self._close_container(byte, expect)
        if byte == _COMMA:
            if expect != _AFTER_VALUE:
                return False
            in_object = self._stack[-1] == ord("{")
            self._expect = _KEY if in_object else _VALUE
            self.value_start = not in_object
            if in_object and len(self._stack) == 2:
                self.key_prefix = ""
            self._keep(byte)
            return True
        if byte == _COLON:
            if expect != _AFTER_KEY:
                return False
            self._expect = _VALUE
            self._begin_value()
            self._keep(byte)
            return True
        if expect != _VALUE or not self._stack:
            return False
        self._expect = _SCALAR
        self.value_start = False
        self._keep(byte)
        return True

    def _open_string(self, expect: int) -> bool:
        if expect not in (_VALUE, _KEY) or not self._stack:
            return False
        self._is_key = expect == _KEY
        self._in_text = True
        self._text.clear()
        self.in_string = not self._is_key
        self.value_start = not self._is_key
        self._keep(_QUOTE)
        return True

    def _close_string(self) -> None:
        self._in_text = False
        self.in_string = False
        self.value_start = False
        if len(self._stack) > 2:
            self._expect = _AFTER_KEY if self._is_key else _AFTER_VALUE
            return
        text = self._string()
        if self._is_key:
            self._expect = _AFTER_KEY
            if len(self._stack) == 1:
                self._outer_key = text
            else:
                self.key_prefix = text
            return
        if len(self._stack) == 1 and self._outer_key == "name":
            self.name = self.name_prefix = text
        self._value_done()

    def _begin_value(self) -> None:
        """A colon was read: a value comes."""
        depth = len(self._stack)
        self.value_start = True
        if depth == 1 and self._outer_key not in ("name", "arguments"):
            self.error = f"unknown key {self._outer_key[:40]!r}; a call has name and arguments"
        elif depth == 2:
            self.parameter = self.key_prefix
            self._value_from = len(self._arguments) + 1  # behind the colon
            self.written = (*self.written, self.key_prefix or "")
            self.key_prefix = None

    def _value_done(self) -> None:
        self._expect = _AFTER_VALUE
        self.value_start = False
        if len(self._stack) == 2:
            self.parameter = None

    def _open_container(self, byte: int, expect: int) -> bool:
        if expect != _VALUE or len(self._stack) >= _MAX_DEPTH:
            return False
        depth = len(self._stack)
        if depth == 1:
            if self._outer_key != "arguments" or byte != ord("{"):
                return False
            self.state = "arguments"
            self._arguments.clear()
            self._arguments_end = False
            self.key_prefix = ""
        elif depth == 0 and byte != ord("{"):
            return False
        self._stack.append(byte)
        self._expect = _KEY if byte == ord("{") else _VALUE
        self.value_start = byte == ord("[")
        self._keep(byte)
        return True

    def _close_container(self, byte: int, expect: int) -> bool:
        if not self._stack or self._stack[-1] != _CLOSE[byte] or expect not in (_AFTER_VALUE, _KEY, _VALUE):
            return False
        self._keep(byte)
        self._stack.pop()
        if len(self._stack) == 1:
            self._arguments_end = True
            self.key_prefix = None
        if self._stack:
            self._value_done()
        else:
            self._expect = _END
        return True

    def _string(self) -> str:
        raw = self._text.decode("utf-8", "replace")
        if "\\" not in raw:
            return raw
        try:
            return str(json.loads(f'"{raw}"'))
        except ValueError:
            return raw

    def _show_prefix(self) -> None:
        """Keep the readable part of an unfinished name or key up to date."""
        if self._is_key and len(self._stack) == 2:
            self.key_prefix = self._text.decode("utf-8", "ignore")
        elif not self._is_key and self.state == "name" and self._outer_key == "name":
            self.name_prefix = self._text.decode("utf-8", "ignore")
