"""Both back ends of the decoder: the same numbers, whoever joins or leaves."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from multimodal_ai.inference.decoding import DecodingBackend, TorchBackend, decoding_backend
from multimodal_ai.inference.engine import Engine
from multimodal_ai.inference.requests import Request
from multimodal_ai.models import MultimodalModel

pytest.importorskip("openvino")
from multimodal_ai.inference.openvino_decoder import OpenVINORows

QUESTIONS = ["Hello.", "What is the sum of twelve and thirty?", "Name a colour that you like, and say why you do."]


def openvino(model: MultimodalModel, weights: str = "fp32") -> DecodingBackend:
    return decoding_backend(model, "openvino", weights)


@torch.inference_mode()
def compared(engine: Engine, backend: DecodingBackend, steps: int, rng: random.Random) -> float:
    """Rows join and leave both back ends, and write different numbers of tokens; the largest difference of logits."""
    requests = [Request([{"role": "user", "content": question * (1 + n)}]) for n, question in enumerate(QUESTIONS)]
    prefilled = engine.encoder.prefill([engine.encoder.example(request) for request in requests])
    (opening,) = engine.renderer.start()
    sides = [TorchBackend(engine.model).rows(), backend.rows()]
    held, worst = 0, 0.0
    for _ in range(steps):
        while held and rng.random() < 0.25:
            number, held = rng.randrange(held), held - 1
            for side in sides:
                side.remove(number)
        while held < 5 and (not held or rng.random() < 0.4):
            chosen, held = rng.choice(prefilled), held + 1
            for side in sides:
                side.add(opening, chosen.memory, chosen.written)
        counts = [rng.choice([1, 1, 1, 4]) for _ in range(held)]
        tokens = [[rng.randrange(20, 400) for _ in range(count)] for count in counts]
        ours, theirs = (side.step(tokens) for side in sides)
        assert theirs[0].shape == ours[0].shape and theirs[1].shape == ours[1].shape
        worst = max(worst, *(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)))
    return worst


def test_logits_agree_while_rows_join_and_leave(engine: Engine) -> None:
    assert compared(engine, openvino(engine.model), 150, random.Random(1)) < 1e-4


@pytest.mark.parametrize(("weights", "most"), [("bf16", 0.6), ("int8", 0.6)])
def test_rounded_weights_stay_near(engine: Engine, weights: str, most: float) -> None:
    worst = compared(engine, openvino(engine.model, weights), 40, random.Random(2))
    assert 1e-4 < worst < most  # another precision, and not another model


def test_the_greedy_reply_is_that_of_the_reference(engine: Engine) -> None:
    requests = [Request([{"role": "user", "content": question}], max_tokens=24) for question in QUESTIONS]
    expected = [reply.token_ids for reply in engine.generate(requests)]
    engine.backend = openvino(engine.model)
    assert [reply.token_ids for reply in engine.generate(requests)] == expected
    assert [engine.generate([request])[0].token_ids for request in requests] == expected
    *_, end = engine.stream(replace(requests[1]))
    assert end.reply is not None and end.reply.token_ids == expected[1]


def test_weights_that_changed_are_compiled_anew(engine: Engine) -> None:
    backend = openvino(engine.model)
    compared(engine, backend, 2, random.Random(0))
    with torch.no_grad():
        engine.model.decoder.norm.weight.mul_(2.0)
    assert compared(engine, backend, 2, random.Random(0)) < 1e-3


@torch.inference_mode()
def test_load_that_never_ends_takes_no_more_room(engine: Engine) -> None:
    """Two rows take turns to be replaced, so that the batch is never empty."""
    request = Request([{"role": "user", "content": "Hello."}])
    (prefilled,) = engine.encoder.prefill([engine.encoder.example(request)])
    rows = openvino(engine.model).rows()
    assert isinstance(rows, OpenVINORows)
    most = 0
    for turn in range(20):
        rows.add(1, prefilled.memory, prefilled.written)
        for _ in range(20):
            rows.step([[30]] * (1 + bool(turn)))
            most = max(most, rows.places)
        if turn:
            rows.remove(0)
    assert 80 < most < 180  # rows are at most 41 long; 400 steps were run


def test_openvino_reports_nothing(tmp_path: Path) -> None:
    (tmp_path / "openvino_telemetry.py").write_text("print('reports'); raise ImportError")
    program = "import multimodal_ai.inference.openvino_decoder, sys; print('openvino' in sys.modules)"
    path = os.pathsep.join((str(tmp_path), *filter(None, sys.path)))
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True"], done.stderr


def test_what_cannot_be_is_refused(small_model: MultimodalModel) -> None:
    for name, weights, words in (
        ("onnx", None, "auto, torch"),
        ("torch", "int8", "OpenVINO"),
        ("auto", "int3", "fp32"),
    ):
        with pytest.raises(ValueError, match=words):
            decoding_backend(small_model, name, weights)
    assert decoding_backend(small_model).name == "openvino"
