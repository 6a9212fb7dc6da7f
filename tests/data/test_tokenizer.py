"""The tokenizer: exact round trips, copy-stable values, files that load to the same ids."""

from __future__ import annotations

import json
import lzma
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_ai.data.tokenizer import SPECIAL_TOKENS, Tokenizer

DATA = Path(os.environ.get("MULTIMODAL_AI_DATA", Path(__file__).parents[3] / "shared" / "data"))
SENTENCES = [
    "Book a table for 4 in Lagos, then call parseJSONValue(get_weather).",
    "The weather in New York is cold and the weather in Lagos is warm.",
    '{"name":"get_weather","arguments":{"city":"New York","days":3}}',
    '{"name":"book_table","arguments":{"city":"Lagos","guests":4}}',
    "2026 2026 2026... camelCase camelCase get_weather get_weather (Lagos) (Lagos) \t\t\n\n 東京 東京 a1 a1",
] * 4


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(SENTENCES, 480)


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([index]) for index in tokenizer.encode(text)]


@given(text=st.text())
def test_any_unicode_text_comes_back_exactly(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert tokenizer.encode_array(text).tolist() == ids


@given(
    value=st.text(min_size=1),
    before=st.text(alphabet=" .(-'\n", min_size=1),
    after=st.sampled_from(" .)-'\n"),
)
def test_a_value_keeps_its_ids_wherever_it_stands(tokenizer: Tokenizer, value: str, before: str, after: str) -> None:
    """Holds for values that begin and end in a letter or digit, next to anything that is no part of words."""
    value = f"a{value}9"
    ids = tokenizer.encode(value)
    start = len(tokenizer.encode(before))
    assert tokenizer.encode(before + value + after)[start : start + len(ids)] == ids


def test_half_a_surrogate_pair_becomes_the_replacement_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_bytes_that_are_no_utf8_decode_to_the_replacement_character(tokenizer: Tokenizer) -> None:
    first_byte_of_euro = tokenizer.encode("€")[0]
    assert tokenizer.decode([first_byte_of_euro]) == "\ufffd"


def test_splitting(tokenizer: Tokenizer) -> None:
    assert pieces(tokenizer, "in Lagos") == ["in", " ", "Lagos"]
    assert pieces(tokenizer, "2026") == ["2", "0", "2", "6"]
    assert pieces(tokenizer, "Lagos   Lagos")[:1] == ["Lagos"]
    assert "_" in pieces(tokenizer, "get_weather")
    assert [tokenizer.space] == tokenizer.encode(" ")
    for left, right in (("weather", "City"), ("東", "京"), ("서", "울"), ("A", "1"), ("a", "\n"), (".", ".")):
        assert tokenizer.encode(left + right) == tokenizer.encode(left) + tokenizer.encode(right)


def test_structure_of_json_merges(tokenizer: Tokenizer) -> None:
    found = pieces(tokenizer, SENTENCES[2])
    assert any(len(piece) > 1 and set(piece) <= set('"{}[]:,') for piece in found)


def test_all_bytes_and_special_tokens_have_ids(tokenizer: Tokenizer) -> None:
    singles = {tokenizer.token_bytes(index) for index in range(tokenizer.vocab_size)}
    assert {bytes([byte]) for byte in range(256)} <= singles
    assert [tokenizer.decode([index], skip_special=False) for index in range(len(SPECIAL_TOKENS))] == list(
        SPECIAL_TOKENS
    )
    assert tokenizer.decode(range(len(SPECIAL_TOKENS))) == ""
    assert tokenizer.token_bytes(tokenizer.special.call) == b""
    assert SPECIAL_TOKENS[tokenizer.special.call_end] == "</function_call>"
    assert SPECIAL_TOKENS[tokenizer.special.image] == "<|image|>"
    assert [SPECIAL_TOKENS[index] for index in tokenizer.special.masks] == [f"<|mask_{n}|>" for n in range(16)]


@pytest.fixture(scope="module")
def copies(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> list[Tokenizer]:
    folder = tmp_path_factory.mktemp("saved")
    tokenizer.save(folder)
    return [Tokenizer.load(folder), pickle.loads(pickle.dumps(tokenizer))]


@given(text=st.text())
def test_saved_and_loaded_gives_the_same_ids(tokenizer: Tokenizer, copies: list[Tokenizer], text: str) -> None:
    for copy in copies:
        assert copy.encode(text) == tokenizer.encode(text)


def test_saving_again_gives_the_same_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = tokenizer.save(tmp_path / "first")
    loaded = Tokenizer.load(first)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.save(tmp_path / "second").read_bytes() == first.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["tokenizer.json"]


def test_training_is_deterministic_and_does_not_depend_on_the_order(tokenizer: Tokenizer) -> None:
    assert Tokenizer.train(reversed(SENTENCES), 480).fingerprint == tokenizer.fingerprint
    assert Tokenizer.train(SENTENCES[:4], 300).fingerprint != tokenizer.fingerprint


def test_a_vocabulary_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 284"):
        Tokenizer.train(SENTENCES, 283)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="tokenizer train"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="not a readable tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_foreign_tokenizer_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    state = json.loads(tokenizer.save(tmp_path).read_text())
    state["model"]["vocab"] = {
        token: index for token, index in state["model"]["vocab"].items() if index >= len(SPECIAL_TOKENS)
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"<\|pad\|> should have id 0"):
        Tokenizer.load(tmp_path)


def contains(ids: list[int], part: list[int]) -> bool:
    return any(ids[start : start + len(part)] == part for start in range(len(ids) - len(part) + 1))


def test_slot_values_are_copy_stable_on_real_requests() -> None:
    path = DATA / "snips.jsonl.xz"
    if not path.exists():
        pytest.skip(f"{path} is not here; MULTIMODAL_AI_DATA names the folder")
    with lzma.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    tokenizer = Tokenizer.train((row["text"] for row in rows if row["split"] == "train"), 4096)
    same = total = 0
    for row in rows[::4]:
        sentence = tokenizer.encode(row["text"])
        for _, value in row["slots"]:
            if value in row["text"]:
                inside = tokenizer.encode(json.dumps({"k": value}, ensure_ascii=False, separators=(",", ":")))
                expected = tokenizer.encode(value)
                same += contains(sentence, expected) and contains(inside, expected)
                total += 1
    assert total > 5000
    assert same / total >= 0.99
