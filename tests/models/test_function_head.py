"""The pointer spells out a value as it stands in the source, spaces included."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_ai.data.packing import IGNORED, WRITTEN, Batch, last_written
from multimodal_ai.data.rendering import USER, Renderer, Source
from multimodal_ai.models.function_head import continuation, copied_ids

words = st.lists(st.text("abcdeXYZ019-'é", min_size=1, max_size=6), min_size=1, max_size=5).map(" ".join)


@given(before=words, value=words, behind=words)
@settings(max_examples=60, deadline=None)
def test_following_the_continuation_copies_verbatim(renderer: Renderer, before: str, value: str, behind: str) -> None:
    tokenizer = renderer.tokenizer
    source = Source()
    source.content(tokenizer.encode(f"{before}: {value}, {behind}"), USER, tokenizer.space)
    wanted = tokenizer.encode(value)
    places = renderer.find(source, wanted)
    assert min(places) >= 0
    ids, space = torch.tensor([source.ids]), torch.tensor([source.space])
    written, last, out = (-1,) * WRITTEN, -1, list[int]()
    for place in places:
        continues = continuation(ids, torch.tensor([written]))
        assert not out or last == tokenizer.space or continues[0, place, 0]
        copies = copied_ids(ids, space, continues, torch.tensor([last]), torch.tensor(tokenizer.space))
        last = int(copies[0, place])
        written = last_written(written, last, tokenizer.space)
        out.append(last)
    assert tokenizer.decode(out) == value


def test_longer_agreement_counts_more() -> None:
    source = torch.tensor([[5, 6, 7, 5, 9, 7]])
    matches = continuation(source, torch.tensor([[5, 7, 6]]))  # 6, 7, 5 were written, in this order
    assert matches.sum(-1).tolist() == [[0, 1, 0, 0, 3, 0]]


def test_every_label_that_was_copied_is_what_its_copy_writes(micro_batches: Any) -> None:
    data = micro_batches(32, 32)
    seen = spaces = 0
    for number in range(4):
        batch: Batch = data[number]
        row, position = (batch.copy >= 0).nonzero(as_tuple=True)
        continues = continuation(batch.source_ids[row], batch.written[row, position])
        last = batch.target_ids[row, position]
        ids = copied_ids(batch.source_ids[row], batch.source_space[row], continues, last, batch.space)
        label = batch.labels[row, position]
        assert (label != IGNORED).all()
        assert torch.equal(ids.gather(1, batch.copy[row, position][:, None]).squeeze(1), label)
        seen, spaces = seen + len(label), spaces + int((label == batch.space).sum())
    assert seen > 50 and spaces > 5
