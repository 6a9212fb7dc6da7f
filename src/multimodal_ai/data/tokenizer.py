"""Byte-level BPE tokenizer: text to ids and back, exactly.

Special tokens are vocabulary entries at the lowest ids that no merge makes and that are never matched in
text, so nothing that a user, a file or a function writes can become one: only rendering puts them in.
Merges are copy-stable: a single space, a digit and most punctuation are tokens of their own, so that a
value has the same ids inside a sentence and inside the JSON that it has to be copied into. They are learned on
small pieces (`PIECES`), and no merge joins what stands in two of them; so text can be split by a coarser pattern
(`SPLIT`), one that `fastokens` scans without a regular expression. Where `fastokens` is not installed, the
`tokenizers` library gives the same ids.
Nothing here may normalise text: decoding what was encoded gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from multimodal_ai.utils.logger import get_logger

# One thread: data workers are one a core already, and those of a pool do not survive a fork. Read at the import.
os.environ.setdefault("FASTOKENS_BPE_THREADS", "1")
try:
    from fastokens import Tokenizer as FastTokenizer
except ImportError:  # the extra `fast` is not installed
    FastTokenizer = None

logger = get_logger(__name__)

MASK_COUNT = 16
SPECIAL_TOKENS: tuple[str, ...] = (
    "<|pad|>",
    "<|end|>",
    "<|doc|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|function|>",
    "<tool_result>",
    "</tool_result>",
    "<function_call>",
    "</function_call>",
    "<|image|>",
    *(f"<|mask_{index}|>" for index in range(MASK_COUNT)),
)
SMALLEST_VOCAB = len(SPECIAL_TOKENS) + 256
LONGEST_TOKEN = 24  # bytes; keeps a run of dashes or spaces in the training text from taking vocabulary

# Scripts written without spaces between words, or with particles glued to them: a name inside a sentence has
# no boundary there, so each character (with its marks) stands alone.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_UPPER = r"(?:[\p{Lu}\p{Lt}]\p{M}*)"
_LOWER = rf"(?:[\p{{Ll}}\p{{Lm}}\p{{Lo}}&&[^{_UNSPACED}]]\p{{M}}*)"
PIECES = "|".join(
    (
        r"[ ]+(?!\S)",  # the last space before a word stands alone
        r"[ ]",
        r"[\r\n]+",
        r"\t+(?!\S)",
        r"\t",
        rf"[\p{{L}}&&[{_UNSPACED}]]\p{{M}}*",
        rf"{_UPPER}*{_LOWER}+",  # a word; lower to upper case (camelCase) begins a new one
        rf"{_UPPER}+",
        r"\p{N}",
        r"[\"{}\[\]:,]+",  # the structure of JSON may merge, as in  ":"  and  "},
        r"(?m:.)",  # any other character alone (in this dialect the m flag lets the dot match line breaks)
    )
)
# The pattern of Mistral's Tekken tokenizer, to the letter: `fastokens` knows it by its text.
_WORD_START = r"[^\r\n\p{L}\p{N}]?"
_ANY_UPPER, _ANY_LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SPLIT = "|".join(
    (
        f"{_WORD_START}{_ANY_UPPER}*{_ANY_LOWER}+",
        f"{_WORD_START}{_ANY_UPPER}+{_ANY_LOWER}*",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
_PROBE = 'naïve  parseJSONValue(3.14)\r\n\t\t\'s “Zürich” 東京 Привет\u0301 <|end|> 👩‍👧 {"a":[]}\0'


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens; `result` and `call` open, `result_end` and `call_end` close."""

    pad: int
    end: int
    doc: int
    system: int
    user: int
    assistant: int
    function: int
    result: int
    result_end: int
    call: int
    call_end: int
    image: int
    masks: tuple[int, ...]


class Tokenizer:
    """Text to ids and back. Make one with `train` or `load`; it does not change afterwards."""

    special: SpecialIds
    space: int
    """Id of the single space."""

    def __init__(self, backend: tokenizers.Tokenizer, where: str = "tokenizer") -> None:
        vocab = backend.get_vocab(with_added_tokens=True)
        for index, token in enumerate(SPECIAL_TOKENS):
            if vocab.get(token) != index:
                raise ValueError(
                    f"{where}: the special token {token} should have id {index} but has {vocab.get(token)}; "
                    "use a tokenizer.json made by `multimodal-ai tokenizer train`"
                )
        if backend.get_added_tokens_decoder():
            found = ", ".join(str(added) for added in backend.get_added_tokens_decoder().values())
            raise ValueError(
                f"{where}: added_tokens lets text become a special token ({found}); empty that list, "
                "or use a tokenizer.json made by `multimodal-ai tokenizer train`"
            )
        state = json.loads(backend.to_str())["model"]
        made = {"".join(merge) for merge in state["merges"]}.intersection(SPECIAL_TOKENS)
        if made or state.get("ignore_merges"):
            found = ", ".join(sorted(made)) or "any, ignore_merges is on"
            raise ValueError(f"{where}: text could merge into a special token ({found}); train it again")
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise ValueError(f"{where}: the ids are not 0 to {len(vocab) - 1} without gaps; train it again")
        byte_of = {char: byte for byte, char in enumerate(_byte_alphabet())}
        missing = [byte for char, byte in byte_of.items() if char not in vocab]
        if missing:
            raise ValueError(
                f"{where}: {len(missing)} of the 256 bytes have no token (first: 0x{missing[0]:02x}); train it again"
            )
        self._backend = backend
        self._bytes = [b""] * len(vocab)
        for token, index in vocab.items():
            if index >= len(SPECIAL_TOKENS):
                self._bytes[index] = bytes(byte_of[char] for char in token)
        names = [name.encode() for name in SPECIAL_TOKENS]
        self._bytes_with_special = names + self._bytes[len(names) :]
        single = len(SPECIAL_TOKENS) - MASK_COUNT
        ids = dict(zip(SpecialIds.__annotations__, range(single), strict=False))
        self.special = SpecialIds(**ids, masks=tuple(range(single, len(SPECIAL_TOKENS))))
        self.space = vocab[_byte_alphabet()[0x20]]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learns merges from `texts` until there are `vocab_size` entries, or no pair occurs twice.

        The result does not depend on the order of the texts. `vocab_size` counts the special tokens and the
        256 bytes; less than those is a ValueError.
        """
        if vocab_size < SMALLEST_VOCAB:
            raise ValueError(
                f"vocab_size is {vocab_size}; it must be at least {SMALLEST_VOCAB} "
                f"({len(SPECIAL_TOKENS)} special tokens and 256 bytes)"
            )
        backend = _empty_backend(PIECES)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            max_token_length=LONGEST_TOKEN,
        )
        backend.train_from_iterator((_valid(text) for text in texts), trainer)
        backend.pre_tokenizer = _empty_backend(SPLIT).pre_tokenizer
        # The trainer also registers the special tokens for matching in text. Only their ids are wanted.
        state = json.loads(backend.to_str())
        state["added_tokens"] = []
        return cls(tokenizers.Tokenizer.from_str(json.dumps(state, ensure_ascii=False)))

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Reads `tokenizer.json`, or the one in a folder. Raises ValueError when it is not one of ours."""
        file = Path(path)
        if file.is_dir():
            file = file / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(f"no tokenizer at {file}; make one with `multimodal-ai tokenizer train`")
        try:
            backend = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception for anything it cannot read
            raise ValueError(f"{file}: not a readable tokenizer.json: {error}") from error
        return cls(backend, where=str(file))

    def save(self, folder: str | Path) -> Path:
        """Writes `tokenizer.json` into the folder (made if absent) and returns its path."""
        target = Path(folder) / "tokenizer.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".tokenizer.{os.getpid()}.json")
        try:
            aside.write_text(self._backend.to_str(pretty=True), encoding="utf-8")
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
        return target

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, never special ones. Half a surrogate pair, which is no UTF-8, becomes U+FFFD."""
        if self._fast is None:
            return self._backend.encode(_valid(text), add_special_tokens=False).ids
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> np.ndarray:
        """The same ids as uint32[T], read-only: for long texts, where a Python number costs more than its id."""
        if self._fast is None:
            ids = np.array(self.encode(text), dtype=np.uint32)
            ids.flags.writeable = False
            return ids
        return np.frombuffer(self._fast.encode_batch_flat([_valid(text)])[0], dtype="<u4")

    @cached_property
    def _fast(self) -> Any:
        """The same tokenizer in `fastokens`, made when it is first needed; None where it cannot be trusted."""
        if FastTokenizer is None:
            logger.debug("tokenizing with tokenizers: fastokens is not installed (the extra `fast`)")
            return None
        if _settings(self._backend) != _settings(_empty_backend(SPLIT)):
            logger.debug("tokenizing with tokenizers: fastokens has no scanner for the way this tokenizer splits")
            return None
        try:
            fast = FastTokenizer.from_json_str(self._backend.to_str())
            same = fast.encode(_PROBE).ids == self._backend.encode(_PROBE, add_special_tokens=False).ids
        except Exception as error:  # another version of the library may raise anything
            logger.warning("tokenizing with tokenizers: fastokens cannot be used (%s)", error)
            return None
        if not same:
            logger.warning("tokenizing with tokenizers: this version of fastokens gives other ids")
            return None
        logger.debug("tokenizing with fastokens")
        return fast

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of `ids`. Bytes that are no UTF-8 become U+FFFD; special tokens are left out or named."""
        table = self._bytes if skip_special else self._bytes_with_special
        return b"".join([table[index] for index in ids]).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one id stands for; empty for a special token."""
        return self._bytes[id]

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return len(self._bytes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary, the merges and the rules of splitting, as 64 hex digits."""
        canonical = json.dumps(json.loads(self._backend.to_str()), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def __getstate__(self) -> str:
        return self._backend.to_str()

    def __setstate__(self, state: str) -> None:
        self.__init__(tokenizers.Tokenizer.from_str(state))  # type: ignore[misc]


def _empty_backend(pattern: str) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer without vocabulary that splits text by `pattern`."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _settings(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """Everything that decides over ids, apart from vocabulary and merges."""
    state = json.loads(backend.to_str())
    return {**state, "model": {**state["model"], "vocab": None, "merges": None}}


def _valid(text: str) -> str:
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _byte_alphabet() -> list[str]:
    """The character that byte-level BPE writes for each byte: itself if it prints, else from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    alphabet, shifted = [], 0x100
    for byte in range(256):
        if byte in printable:
            alphabet.append(chr(byte))
        else:
            alphabet.append(chr(shifted))
            shifted += 1
    return alphabet
