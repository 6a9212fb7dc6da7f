"""Grammars: compiling 1, 20 and 256 functions, and the mask of allowed tokens at each choice.

    python benchmarks/grammar.py [--vocab 8192] [--replies 200] [--json OUT]

Takes about a minute, most of it for the tokenizer, which is trained on the standard library's sources. Compiling is
measured cold (nothing of a function is cached, not even its hash), masks at every position of random replies where the
grammar leaves a choice. Times are those of the thread, so that other programs do not count; one thread is used.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions import CompiledGrammar, FunctionSpec, GrammarCompiler

BARS = {"compile_ms.20": 10.0, "compile_ms.256": 100.0, "mask_us.p50": 10.0, "mask_us.p99": 1000.0}
ADDRESS = {
    "type": "object",
    "properties": {"street": {"type": "string"}, "city": {"type": "string"}, "zip": {"pattern": "^[0-9]{5}$"}},
    "required": ["street", "city"],
}
PARAMETERS: tuple[dict[str, Any], ...] = (
    {"type": "string"},
    {"type": "string", "maxLength": 60},
    {"type": "string", "format": "date"},
    {"enum": ["low", "medium", "high"]},
    {"type": "boolean"},
    {"type": "integer"},
    {"type": "integer", "minimum": 0, "maximum": 100},
    {"type": "number", "minimum": 0},
    {"type": "array", "items": {"type": "string"}},
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
    {"$ref": "#/$defs/Address"},
)
WORDS = (
    "get",
    "find",
    "list",
    "book",
    "send",
    "create",
    "delete",
    "update",
    "order",
    "price",
    "user",
    "flight",
    "date",
)


def functions(count: int, rng: random.Random) -> list[FunctionSpec]:
    """Functions with 2 to 6 parameters of many kinds, half of them required."""
    specs = []
    for index in range(count):
        kinds = rng.choices(PARAMETERS, k=rng.randint(2, 6))
        properties = {f"{rng.choice(WORDS)}_{place}": kind for place, kind in enumerate(kinds)}
        schema = {"type": "object", "properties": properties, "required": list(properties)[: len(kinds) // 2]}
        if ADDRESS_REFERENCE in kinds:
            schema["$defs"] = {"Address": ADDRESS}
        specs.append(FunctionSpec(f"{rng.choice(WORDS)}_{rng.choice(WORDS)}_{index}", "Does it.", schema))
    return specs


ADDRESS_REFERENCE = PARAMETERS[-1]


def compile_ms(tokenizer: Tokenizer, count: int, repeats: int, rng: random.Random) -> float:
    """Median milliseconds to compile functions that were never seen before, with a compiler that is in use."""
    compiler, times = GrammarCompiler(tokenizer), list[int]()
    compiler.compile(functions(1, rng))
    for _ in range(repeats):
        specs = functions(count, rng)
        began = time.thread_time_ns()
        compiler.compile(specs)
        times.append(time.thread_time_ns() - began)
    return statistics.median(times) / 1e6


def mask_us(grammar: CompiledGrammar, closing: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Microseconds of every mask of one random reply, which closes what is open after 60 tokens.

    closing: bool[V], the tokens that end a string, a list, an object or the reply.
    """
    matcher, times, count = grammar.matcher(), list[float](), 0
    while not matcher.is_done:
        following = matcher.forced()
        if not following:
            began = time.thread_time_ns()
            mask = matcher.allowed()
            times.append((time.thread_time_ns() - began) / 1e3)
            allowed = np.flatnonzero(mask & closing) if count > 60 else np.flatnonzero(mask)
            following = [int(rng.choice(allowed if len(allowed) else np.flatnonzero(mask)))]
        for token in following:
            matcher.consume(token)
        count += len(following)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--replies", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write {metric: value} here")
    arguments = parser.parse_args()
    rng = random.Random(0)
    sources = sorted(Path(json.__file__).parent.parent.glob("*.py"))
    cards = (json.dumps(spec.to_tool(), separators=(",", ":")) for spec in functions(500, rng))
    texts = [*(path.read_text("utf-8", "replace") for path in sources), *cards]
    tokenizer = Tokenizer.train(texts, arguments.vocab)
    results = {f"compile_ms.{n}": compile_ms(tokenizer, n, 15 if n < 256 else 7, rng) for n in (1, 20, 256)}
    pieces = [tokenizer.token_bytes(index)[:1] for index in range(tokenizer.vocab_size)]
    closing, choices = np.isin(pieces, (b"", b'"', b"}", b"]")), np.random.default_rng(0)
    for n in (20, 256):
        grammar = GrammarCompiler(tokenizer).compile(functions(n, rng), "required", parallel=False)
        times = [value for _ in range(arguments.replies) for value in mask_us(grammar, closing, choices)]
        for name, share in (("p50", 50), ("p99", 99)):
            results[f"mask_us.{name}.{n}"] = float(np.percentile(times, share))
    print(f"llguidance {version('llguidance')}, Python {platform.python_version()}, {tokenizer.vocab_size:,} tokens")
    for name, value in results.items():
        bar = BARS.get(name) or BARS.get(name.rpartition(".")[0])
        print(f"{name:18} {value:9.2f}" + (f"   at most {bar:g}: {'yes' if value <= bar else 'NO'}" if bar else ""))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
