"""A served request gives the encoder and the decoder the very ids that the training sample had."""

from __future__ import annotations

from multimodal_ai.data.examples import build_example
from multimodal_ai.data.messages import Sample
from multimodal_ai.evaluation.common import to_request
from multimodal_ai.inference import Engine


def test_the_same_ids(engine: Engine, samples: dict[str, list[Sample]]) -> None:
    for found in samples.values():
        for sample in found[:25]:
            trained = build_example(sample, engine.renderer, engine.encoder.images)
            served = engine.encoder.example(to_request(sample)[0])
            assert served.source == trained.source
            assert served.cards == trained.cards and served.lexical == trained.lexical
            assert served.required == trained.required
            assert [image.key for image in served.images] == [image.key for image in trained.images]
            assert served.target.ids == trained.target.ids[:1]
