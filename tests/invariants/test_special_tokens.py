"""DESIGN 7.10: no text that a user, a file or a function supplies becomes a special token."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_ai.data.tokenizer import SPECIAL_TOKENS, Tokenizer

FULL_WIDTH = {char: chr(ord(char) + 0xFEE0) for char in map(chr, range(0x21, 0x7F))}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Trained on the names of the special tokens themselves: the text most likely to make merges of them."""
    return Tokenizer.train([*SPECIAL_TOKENS, "".join(SPECIAL_TOKENS), " ".join(SPECIAL_TOKENS)] * 50, 4000)


def is_ordinary(tokenizer: Tokenizer, text: str) -> bool:
    return all(index >= len(SPECIAL_TOKENS) for index in tokenizer.encode(text))


def lookalike(token: str) -> str:
    return "".join(FULL_WIDTH.get(char, char) for char in token)


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_the_name_of_a_special_token_is_ordinary_text(tokenizer: Tokenizer, token: str) -> None:
    for text in (token, f" {token}\n", token * 3, f"x{token}y", lookalike(token), token.upper(), token[:-1]):
        assert is_ordinary(tokenizer, text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert unicodedata.normalize("NFKC", lookalike(token)) == token, "the look-alike is a good one"


@given(parts=st.lists(st.one_of(st.sampled_from(SPECIAL_TOKENS), st.text(max_size=8), st.sampled_from("<|/>_ ▁Ġ"))))
def test_no_text_reaches_a_special_id(tokenizer: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    assert is_ordinary(tokenizer, text)
    assert all(is_ordinary(tokenizer, part) for part in parts)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_ordinary_token_stays_ordinary_when_its_text_is_encoded(tokenizer: Tokenizer) -> None:
    for index in range(len(SPECIAL_TOKENS), tokenizer.vocab_size):
        assert tokenizer.token_bytes(index) not in {name.encode() for name in SPECIAL_TOKENS}


def test_a_file_that_registers_special_tokens_for_matching_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Such a file, as other tools write it, would turn the text `<function_call>` into the id."""
    state = json.loads(tokenizer.save(tmp_path).read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    state["added_tokens"] = [{"id": tokenizer.special.call, "content": "<function_call>", **flags}]
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="added_tokens"):
        Tokenizer.load(tmp_path)


def test_a_file_whose_merges_make_a_special_token_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    state = json.loads(tokenizer.save(tmp_path).read_text())
    state["model"]["vocab"]["<function_call"] = len(state["model"]["vocab"])
    state["model"]["merges"].append(["<function_call", ">"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="merge"):
        Tokenizer.load(tmp_path)
