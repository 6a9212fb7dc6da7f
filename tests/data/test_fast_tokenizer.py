"""The fast library gives the ids of `tokenizers`, whatever the text; without it everything works the same."""

from __future__ import annotations

import json
import lzma
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from multimodal_ai.data import tokenizer as module
from multimodal_ai.data.tokenizer import PIECES, SPECIAL_TOKENS, Tokenizer

DATA = Path(os.environ.get("MULTIMODAL_AI_DATA", Path(__file__).parents[3] / "shared" / "data"))
SENTENCES = [
    "The weather in New York is cold; log_reading(parseJSONValue) costs 1,347.50 EUR... 2026-11-25",
    '{"name":"get_weather","arguments":{"city":"Zürich","days":[1,2,{"a":[]}]}}',
    "Привет мир, ПриветМир. Σωκράτης — «ἀγορά». Ünïcödé naïve ÄÖÜß “quoted” it’s\u0301 e\u0301te\u0301 שָׁלוֹם हिन्दी",
    "東京は日本の首都です。서울 กรุงเทพ\t\t\tx    y\r\n\r\n  z 👩‍👩‍👧 ½²",
] * 8
# Parts that splitting, merging and matching treat apart; hypothesis puts them together, and any characters between.
PARTS = st.sampled_from(
    [*SPECIAL_TOKENS, *SENTENCES[:4], *" \t\r\n\v\f\0'\"/.,:{}[]_-aZ9éÉшШ東ก٣½", "  ", "\t\t", "\r\n", "'s", "'LL",
     "\u0301", "\u200d", "\u00a0", "\u2028", "\u3000", "ǅ", "ʰ", "ﬁ", "\ufffd", "\U0010ffff", "\ud800"]
)  # fmt: skip
ASCII_PARTS = st.sampled_from([*SENTENCES[0].split(" "), SENTENCES[0], SENTENCES[1][:30], " ", "  ", "\n", "\t\t"])
TEXTS = st.lists(st.one_of(PARTS, st.text(st.characters(), max_size=6)), max_size=30).map("".join)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    pytest.importorskip("fastokens", reason="the extra `fast` is not installed")
    trained = Tokenizer.train(SENTENCES, 900)
    assert trained._fast is not None
    return trained


def reference(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer._backend.encode(module._valid(text), add_special_tokens=False).ids


@given(text=TEXTS)
def test_any_text_has_the_same_ids(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text) == tokenizer.encode_array(text).tolist() == reference(tokenizer, text)


def test_every_character_has_the_same_ids(tokenizer: Tokenizer) -> None:
    """Both libraries have tables of Unicode of their own; a thousand characters at a time between others."""
    points = [code for code in range(0x30000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(points), 1024):
        text = "".join(f"a{chr(code)}B {chr(code)}1" for code in points[start : start + 1024])
        assert tokenizer.encode(text) == reference(tokenizer, text), hex(points[start])


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "A",
        "aB",
        " ",
        "\t",
        "\n",
        "\r\n",
        " \t",
        "\0",
        "0",
        '"',
        "-",
        "é",
        "\u0301",
        "東",
        "👩‍👧",
        "   x",
        "<|end|>",
    ],
)
def test_a_megabyte_of_one_thing(tokenizer: Tokenizer, unit: str) -> None:
    """A server tokenizes what strangers send. Both ends are compared: the reference needs seconds for the whole."""
    text = unit * (2**20 // len(unit.encode()))
    began = time.perf_counter()
    ids = tokenizer.encode(text)
    assert time.perf_counter() - began < 10
    assert tokenizer.decode(ids, skip_special=False) == text
    short = text[:20_000]
    assert tokenizer.encode(short) == reference(tokenizer, short)


@given(
    text=st.lists(st.one_of(ASCII_PARTS, st.text(st.characters(codec="ascii"), max_size=9)), max_size=20).map("".join)
)
def test_no_merge_crosses_a_piece(tokenizer: Tokenizer, text: str) -> None:
    """ASCII may be split by a pattern that is coarser than the one that merges were learned on."""
    fine = tokenizers.Tokenizer.from_str(tokenizer._backend.to_str())
    fine.pre_tokenizer = module._empty_backend(PIECES).pre_tokenizer  # type: ignore[assignment]
    assert fine.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


def test_without_the_library_the_ids_are_the_same(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FastTokenizer", None)
    plain = Tokenizer(tokenizer._backend)
    assert plain._fast is None
    for text in (*SENTENCES[:4], "", "a\ud800b", "<|end|>"):
        assert plain.encode(text) == tokenizer.encode(text)
        found = plain.encode_array(text)
        assert found.dtype == np.uint32 and not found.flags.writeable
        assert found.tolist() == tokenizer.encode_array(text).tolist()


def test_a_tokenizer_that_splits_in_another_way_is_left_to_tokenizers(tokenizer: Tokenizer) -> None:
    state = json.loads(tokenizer._backend.to_str())
    state["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = PIECES
    other = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(state)))
    assert other._fast is None
    assert other.encode(SENTENCES[0]) == tokenizer.encode(SENTENCES[0])


@pytest.mark.parametrize("fault", ["other ids", "cannot be used"])
def test_another_version_of_the_library_is_not_trusted(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    class Other:
        ids = (1,)

        @classmethod
        def from_json_str(cls, text: str) -> Other:
            if fault == "cannot be used":
                raise TypeError("unexpected argument")
            return cls()

        def encode(self, text: str) -> Other:
            return self

    monkeypatch.setattr(module, "FastTokenizer", Other)
    monkeypatch.setattr(module.logger, "propagate", True)
    wary = Tokenizer(tokenizer._backend)
    with caplog.at_level("WARNING", logger=module.logger.name):
        assert wary.encode("Zürich") == tokenizer.encode("Zürich")
    assert fault in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_data_worker_tokenizes(tokenizer: Tokenizer) -> None:
    text = SENTENCES[1] * 20_000
    ids = tokenizer.encode(text)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if tokenizer.encode(text) == ids else 3)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    "size", [pytest.param(300_000, id="part"), pytest.param(20_000_000, id="whole", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", ["books.txt.xz", "openstax_text.txt.xz"])
def test_real_prose_has_the_same_ids(name: str, size: int) -> None:
    pytest.importorskip("fastokens", reason="the extra `fast` is not installed")
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not here; MULTIMODAL_AI_DATA names the folder")
    with lzma.open(DATA / name, "rt", encoding="utf-8") as file:
        text = file.read(size)
    trained = Tokenizer.train([text[start : start + 4096] for start in range(0, min(size, 2_000_000), 4096)], 4096)
    for start in range(0, len(text), 65_536):
        block = text[start : start + 65_536]
        assert trained.encode(block) == reference(trained, block)
