"""Above the limit the best functions remain, whatever is cached, and a named one always does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from multimodal_ai.functions.grammar import GrammarError
from multimodal_ai.functions.schema import FunctionSpec
from multimodal_ai.inference import Engine, Request
from multimodal_ai.inference.cache import ContentCache
from multimodal_ai.inference.retrieval import KEPT, LIMIT

ASKED = "Please water the orchids in the greenhouse"


def catalogue(count: int) -> list[FunctionSpec]:
    """`count` functions, of which one, in the middle, is what is asked for."""
    words = ["note", "order", "photo", "ticket", "route", "song", "invoice", "parcel", "meeting", "lamp"]
    described = [f"Handle {words[i % 10]} number {i} of the {words[i // 10 % 10]} list" for i in range(count)]
    described[count // 2] = "Water the orchids of a greenhouse"
    return [FunctionSpec(f"fn_{i}", text, {"type": "object"}) for i, text in enumerate(described)]


def asking(count: int = 300, **options: object) -> Request:
    return Request([{"role": "user", "content": ASKED}], tools=catalogue(count), max_tokens=40, **options)  # type: ignore[arg-type]


def names(request: Request) -> list[str]:
    return [tool.name for tool in request.tools if isinstance(tool, FunctionSpec)]


def test_the_right_one_of_300_is_kept_in_the_given_order(engine: Engine) -> None:
    with torch.no_grad():
        engine.model.head.lexical_scale.fill_(50.0)
    kept = names(engine.retriever.narrowed(asking()))
    assert len(kept) == KEPT and "fn_150" in kept
    assert kept == sorted(kept, key=lambda name: int(name.removeprefix("fn_")))


@torch.no_grad()
def test_the_dual_encoder_decides_with_the_word_overlap(engine: Engine) -> None:
    """With the encoder's vote alone, another set remains, namely the one of the highest cosine."""
    head = engine.model.head
    head.lexical_scale.zero_()
    request = asking()
    specs = catalogue(300)
    query = torch.nn.functional.normalize(
        head.selection_query(engine.encoder.states([replace(request, tools=())])), dim=-1
    )
    best = (query @ engine.retriever.keys(specs).T)[0].topk(KEPT).indices.tolist()
    assert names(engine.retriever.narrowed(request)) == [specs[place].name for place in sorted(best)]


def test_up_to_the_limit_nothing_is_left_out(engine: Engine) -> None:
    request = asking(LIMIT)
    assert engine.retriever.narrowed(request) is request


def test_a_named_function_stays_and_is_called(engine: Engine) -> None:
    for choice in ({"name": "fn_7"}, {"type": "function", "function": {"name": "fn_7"}}):
        request = asking(tool_choice=choice)
        assert "fn_7" in names(engine.retriever.narrowed(request))
    reply = engine.generate([request])[0]
    assert [call.name for call in reply.calls] == ["fn_7"] and len(reply.selection) == KEPT
    with pytest.raises(GrammarError, match="fn_none"):
        engine.generate([asking(tool_choice={"name": "fn_none"})])


def test_a_warm_cache_changes_nothing_and_saves_the_encoding(engine: Engine) -> None:
    request = asking(tool_choice="required")
    encoded = 0
    encode = engine.model.encode_texts

    def counted(ids: torch.Tensor, *rest: torch.Tensor) -> object:
        nonlocal encoded
        encoded += len(ids)
        return encode(ids, *rest)

    engine.model.encode_texts = counted  # type: ignore[method-assign, assignment]
    cold = engine.generate([request])[0]
    first, encoded = encoded, 0
    warm = engine.generate([request])[0]
    assert first >= 300 and encoded == 0
    assert warm.token_ids == cold.token_ids and warm.selection == cold.selection


def test_the_cache_is_bounded_and_forgets_what_was_not_used(engine: Engine) -> None:
    specs = catalogue(100)
    width = engine.model.head.config.width
    cache = engine.retriever.cache = ContentCache(60 * 4 * width)  # 60 keys of float32
    keys = engine.retriever.keys(specs)
    assert len(cache) == 60 and ("key", specs[0].hash) not in cache
    engine.retriever.keys(specs[40:41])
    engine.retriever.keys(specs[:10])
    assert [i for i, spec in enumerate(specs) if ("key", spec.hash) in cache] == [
        *range(10),
        40,
        *range(51, 100),
    ]
    torch.testing.assert_close(engine.retriever.keys(specs), keys)
