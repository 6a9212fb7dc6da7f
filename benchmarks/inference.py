"""Inference speed: this project's engine, as a user calls it, against `transformers` with random weights.

    pip install -e ".[bench,openvino]"
    python benchmarks/inference.py [--json OUT] [--device cuda]

Three measures, all of them in one run, the sides in turn and the fastest of several rounds of each:

- tokens/s of a decoder of 30M (384 wide, 8 layers, vocabulary 16k) behind 512 tokens, 1 and 16 requests at once. Ours
  has it behind a text encoder and looks at the 512 through cross-attention; grammar, head, sampling and pieces are in
  the time. The peer is a causal Llama of the same shape in BF16 (FP32 with --peer-fp32). What a first token takes is
  subtracted.
- the first token of a request that was not seen before.
- config `small`: a picture and a request until a call is complete, warm, another picture each time; and from the start
  of a process to its first answer.

OpenVINO is measured where it is installed. llama.cpp, OpenVINO GenAI and vLLM are not measured here.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from multimodal_ai.data.image_processor import ImageConfig
from multimodal_ai.data.processing import ProcessingConfig
from multimodal_ai.data.rendering import RenderingConfig
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.inference import Engine, Request
from multimodal_ai.inference.decoding import decoding_backend, openvino_installed
from multimodal_ai.models import ModelConfig, MultimodalModel
from multimodal_ai.utils.config import load_config

CONFIGS = Path(__file__).parent.parent / "configs" / "models"
VOCABULARY, PROMPT, NEW = 16_000, 512, 64
TOOL = {
    "name": "record_expense",
    "description": "Record an expense",
    "parameters": {
        "type": "object",
        "properties": {
            "category": {"type": "string", "enum": ["food", "travel", "office", "other"]},
            "amount": {"type": "integer", "minimum": 0, "maximum": 9999},
            "paid": {"type": "boolean"},
        },
        "required": ["category", "amount", "paid"],
    },
}
START = """
import sys
from multimodal_ai.inference import Engine, Request
engine = Engine.from_pretrained(sys.argv[1], backend=sys.argv[2])
print(engine.generate([Request([{"role": "user", "content": "Hello"}], max_tokens=8)])[0].usage)
"""


def words(rng: random.Random, count: int) -> str:
    """So many words of two letters, no two texts alike."""
    return " ".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(count))


def tokenizer_of(size: int) -> Tokenizer:
    """A tokenizer with `size` tokens: made-up words make enough pairs to merge."""
    rng = random.Random(0)
    texts = (" ".join("".join(rng.choices("abcdefghijklmnop", k=7)) for _ in range(50)) for _ in range(1500))
    return Tokenizer.train(texts, size)


def random_model(config: ModelConfig) -> MultimodalModel:
    torch.manual_seed(0)
    model = MultimodalModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2 and not parameter.any():
                parameter.normal_(std=0.3 * parameter.shape[-1] ** -0.5)
    return model


def decoder_30m(vocab_size: int) -> ModelConfig:
    stack = {"width": 384, "layers": 8, "heads": 6, "kv_heads": 3, "hidden": 1024}
    vision = {"width": 128, "layers": 1, "heads": 2, "kv_heads": 2, "hidden": 256, "patch_size": 16}
    return ModelConfig.model_validate(
        {"vocab_size": vocab_size, "vision": vision, "text": {**stack, "layers": 4}, "decoder": stack}
    )


class Ours:
    """The engine with one of its back ends."""

    def __init__(self, model: MultimodalModel, tokenizer: Tokenizer, backend: str, weights: str | None) -> None:
        processing = ProcessingConfig(image=ImageConfig(patch_size=16), rendering=RenderingConfig(max_source=1024))
        decoder = decoding_backend(model, backend, weights)
        self.name = backend if weights is None else f"{backend} {weights}"
        self.engine = Engine(model, tokenizer, processing, backend=decoder)
        self.rng = random.Random(1)
        self.texts = [self._text() for _ in range(16)]

    def _text(self) -> str:
        tokenizer, text = self.engine.tokenizer, words(self.rng, PROMPT)
        while sum(id != tokenizer.space for id in tokenizer.encode(text)) > PROMPT - 8:
            text = text[: len(text) * 95 // 100]
        return text

    def seconds(self, batch: int, tokens: int) -> tuple[float, int]:
        """Of `tokens` tokens for each of so many requests seen before, and how many came."""
        texts = self.texts[:batch]
        requests = [Request([{"role": "user", "content": text}], max_tokens=tokens) for text in texts]
        began = time.perf_counter()
        replies = self.engine.generate(requests)
        return time.perf_counter() - began, sum(len(reply.token_ids) for reply in replies)

    def first_token(self) -> float:
        request = Request([{"role": "user", "content": self._text()}], max_tokens=1)
        began = time.perf_counter()
        self.engine.generate([request])
        return time.perf_counter() - began


class Peer:
    """A causal Llama of the decoder's shape in transformers."""

    name = "transformers"

    def __init__(self, vocab_size: int, device: str, dtype: torch.dtype) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=vocab_size, hidden_size=384, intermediate_size=1024, num_hidden_layers=8,
            num_attention_heads=6, num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=2048,
            bos_token_id=None, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        self.model, self.device = LlamaForCausalLM(config).to(device, dtype).eval(), device

    def seconds(self, batch: int, tokens: int) -> tuple[float, int]:
        ids = torch.randint(5, 4000, (batch, PROMPT), device=self.device)
        began = time.perf_counter()
        with torch.inference_mode():
            found = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
            )
        return time.perf_counter() - began, found[:, PROMPT:].numel()

    def first_token(self) -> float:
        return self.seconds(1, 1)[0]


def decoding_rate(side: Ours | Peer, batch: int) -> float:
    """Tokens/s behind the first one."""
    (short, few), (long, many) = side.seconds(batch, 1), side.seconds(batch, 1 + NEW)
    return (many - few) / (long - short)


def call_latency(engine: Engine, rng: np.random.Generator) -> float:
    """Seconds from a picture and a request to a finished call."""
    image = Image.fromarray(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Record this receipt."}]
    request = Request([{"role": "user", "content": content}], tools=[TOOL], tool_choice="required", max_tokens=256,
                      parallel_tool_calls=False)  # fmt: skip
    began = time.perf_counter()
    (reply,) = engine.generate([request])
    assert len(reply.calls) == 1, reply
    return time.perf_counter() - began


def process_start(folder: Path, backend: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", START, str(folder), backend], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def best(rounds: int, measures: dict[str, Callable[[], float]], highest: bool) -> dict[str, float]:
    """The best of every side; they take turns. One turn of each first that does not count."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            value = measure()
            if number:
                found[name].append(value)
    return {name: max(values) if highest else min(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-fp32", action="store_true", help="the peer in FP32 instead of BF16")
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()
    import transformers

    tokenizer = tokenizer_of(VOCABULARY)
    size = tokenizer.vocab_size
    with_openvino = arguments.device == "cpu" and openvino_installed()
    if not with_openvino:
        print("without OpenVINO: not installed, or not a CPU")
    kinds: list[tuple[str, str | None]] = [("torch", None)]
    kinds += [("openvino", weights) for weights in ("fp32", "bf16", "int8")] if with_openvino else []
    model = random_model(decoder_30m(size)).to(arguments.device)
    ours = [Ours(model, tokenizer, *kind) for kind in kinds]
    peer = Peer(size, arguments.device, torch.float32 if arguments.peer_fp32 else torch.bfloat16)
    sides: list[Ours | Peer] = [*ours, peer]
    about = {
        "device": arguments.device if arguments.device == "cpu" else torch.cuda.get_device_name(arguments.device),
        "processor": platform.processor(), "threads": torch.get_num_threads(), "vocabulary": size,
        "torch": torch.__version__, "transformers": transformers.__version__,
        "peer": "fp32" if arguments.peer_fp32 else "bf16",
    }  # fmt: skip
    print(json.dumps(about))
    rows: list[dict[str, Any]] = []

    def record(measure: str, better: str, found: dict[str, float]) -> None:
        other = found.get(peer.name)
        for name, value in found.items():
            if name != peer.name:
                ratio = None if other is None else value / other
                rows.append({"measure": measure, "better": better, "side": name, "ours": value, "peer": other,
                             "ratio": ratio})  # fmt: skip
                compared = "" if other is None else f"  peer {other:9.4g}  ratio {ratio:6.2f}"
                print(f"{measure:36} {name:14} {value:9.4g}{compared}", flush=True)

    for batch in (1, 16):
        found = best(arguments.rounds, {side.name: partial(decoding_rate, side, batch) for side in sides}, True)
        record(f"tokens/s, batch {batch}", "higher", found)
    record("first token, s", "lower", best(arguments.rounds, {s.name: s.first_token for s in sides}, False))

    config = load_config(ModelConfig, CONFIGS / "small.yaml").model_copy(update={"vocab_size": size})
    small, generator = random_model(config).to(arguments.device), np.random.default_rng(0)
    engines = {side.name: Ours(small, tokenizer, *kind).engine for side, kind in zip(ours, kinds, strict=True)}
    measures = {name: partial(call_latency, engine, generator) for name, engine in engines.items()}
    record("small, picture to finished call, s", "lower", best(arguments.rounds, measures, False))
    if arguments.device == "cpu":
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            small.save_pretrained(folder)
            tokenizer.save(folder)
            engines["torch"].processing.save(folder)
            backends = ("torch", "openvino") if with_openvino else ("torch",)
            started = best(2, {name: partial(process_start, folder, name) for name in backends}, False)
        record("small, process start to answer, s", "lower", started)
    if arguments.json:
        arguments.json.write_text(json.dumps([{**about, **row} for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
