"""Embeddings through the real client, which asks for Base64 unless told otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import openai
import pytest

from .conftest import Running, data_url


def test_texts_and_images_are_those_of_the_engine(running: Running) -> None:
    inputs: Any = ["a red circle", {"type": "image_url", "image_url": {"url": data_url()}}, "a blue square"]
    for form in ("base64", "float"):
        made = running.client.embeddings.create(model="small", input=inputs, encoding_format=form)  # type: ignore[call-overload]
        assert [entry.index for entry in made.data] == [0, 1, 2] and made.usage.prompt_tokens > 3
    got = np.array([entry.embedding for entry in running.client.embeddings.create(model="small", input=inputs).data])
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    engine = running.engine
    texts = running.scheduler.call(lambda: engine.embed_texts(["a red circle", "a blue square"])).result()
    assert np.allclose(got[[0, 2]], texts.numpy(), atol=1e-5)
    assert not np.allclose(got[1], got[0], atol=1e-2)


def test_many_inputs_keep_their_order(running: Running) -> None:
    texts = [f"number {number}" for number in range(40)]
    many = running.client.embeddings.create(model="small", input=texts).data
    alone = running.client.embeddings.create(model="small", input=texts[33]).data[0]
    assert len(many) == 40 and np.allclose(many[33].embedding, alone.embedding, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ([], {}),
        ([""], {}),
        (["word " * 2000], {}),
        ([[1, 2, 3]], {}),
        (["a"] * 300, {}),
        (["a"], {"dimensions": 7}),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}], {}),
        ([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], {}),
    ],
)
def test_what_it_cannot_embed_is_refused(running: Running, given: Any, options: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        running.client.embeddings.create(model="small", input=given, **options)
