"""What finds the digit that was read: attention, gradients and occlusion, against where plates really show things.

    python benchmarks/attention.py --model runs/quickstart [--count 200] [--json OUT]

Draws meter plates and payment slips of the test split, asks for their calls, and looks at the replies' own values, the
pass repeated with the calls as target. Of each signal: how often the brightest cell of the image lies on the digit that
a token writes, on the number as a whole, on the printed unit or currency; and which share of the signal lies on the
number. A cell counts as on a digit that covers at least a quarter of its width. Calls that read the plate wrongly are
counted and left out. `view` is what `x_attention` gives, by argument; its cost is the time of a whole reply with and
without it, about a picture that is new. Takes about a minute for 200 on one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from multimodal_ai.data.examples import Example
from multimodal_ai.data.messages import Message
from multimodal_ai.data.recipes.digits import CURRENCIES, UNITS, draw_meter, draw_payee, log_reading, record_payment
from multimodal_ai.data.recipes.plates import compose, digit_pools
from multimodal_ai.inference import Engine, Request
from multimodal_ai.inference.attention_view import WrittenValue, written_values
from multimodal_ai.inference.requests import Call

Columns = set[int]
NUMBERS, LABELS = ("value", "amount"), ("unit", "currency")


def plates(count: int, seed: int = 0) -> Iterator[tuple[Request, str, str, list[tuple[int, int]]]]:
    """Requests with a plate or slip each, the number and the label on it, and where its digits and label stand."""
    pools = digit_pools(seed, "test")
    for number in range(count):
        rng = Random(f"attention {seed} {number}")
        if rng.random() < 0.5:
            text, label = str(rng.randint(100, 9999)), rng.choice(UNITS)
            words = f"Log this reading for the {draw_meter(rng, 'test')}"
        else:
            text, label = f"{rng.randint(1, 99)}.{rng.randrange(100):02d}", rng.choice(CURRENCIES)
            words = f"Record this payment to {draw_payee(rng, 'test')}"
        image, _, places = compose(text, label, pools, rng)
        content = [{"type": "image"}, {"type": "text", "text": words}]
        tools = [log_reading(), record_payment()]
        yield Request([{"role": "user", "content": content}], tools, [image]), text, label, places


def columns(place: tuple[int, int], patch: int, count: int) -> Columns:
    """The cells of a row that a span of pixels covers by a quarter or more."""
    return {c for c in range(count) if min(place[1], (c + 1) * patch) - max(place[0], c * patch) >= patch / 4}


class Signals:
    """Every signal of one example with its target: `of(positions)` by name, float[rows, columns] over the image."""

    def __init__(self, engine: Engine, example: Example) -> None:
        self.engine, self.example, self.model = engine, example, engine.model
        self.labels = example.target.labels
        self.grid = example.images[0].grid
        self.slots = [position for position, _, _ in example.source.slots]
        batch = engine.encoder.batch([example])
        visual, _ = self.model.encode_images(batch.patches, batch.grids)
        texts = self.model.encode_texts(batch.text_ids, batch.text_space, batch.text_lengths)
        with torch.enable_grad():
            self.context = self.model.encode(batch, visual, texts)
            self.context.rows.requires_grad_()
            given = (self.model.embed_target(batch.target_ids), batch.target_lengths, self.context)
            states, self.looked = self.model.decoder.look(*given)
            self.scores = self.model.logits(states)[0].log_softmax(-1)
        self.before = self.context.keys.packing.lengths[0] - len(example.source.ids)
        self.hidden = self._occluded(batch)

    def _occluded(self, batch: Any) -> Tensor:
        """Log-probabilities of the labels with one patch after the other in the image's median colour, [patches, T]."""
        patches = batch.patches[0]
        n = len(patches)
        median = patches.view(n, 3, -1).transpose(0, 1).flatten(1).median(1).values
        changed = patches.repeat(n, 1, 1)
        changed[range(n), range(n)] = median.repeat_interleave(patches.shape[-1] // 3)
        many = self.engine.encoder.batch([self.example] * n)
        many.slot_image, many.image_index = torch.arange(n).repeat_interleave(len(self.slots)), torch.arange(n)[:, None]
        with torch.inference_mode():
            visual, _ = self.model.encode_images(changed, batch.grids.repeat(n, 1))
            texts = self.model.encode_texts(many.text_ids, many.text_space, many.text_lengths)
            context = self.model.encode(many, visual, texts)
            states, _ = self.model.decoder(self.model.embed_target(many.target_ids), many.target_lengths, context)
            scores = self.model.logits(states).log_softmax(-1)
        return scores.gather(-1, torch.tensor(self.labels).expand(n, -1)[..., None]).squeeze(-1)

    def of(self, positions: list[int]) -> dict[str, Tensor]:
        wanted = torch.tensor([self.labels[position] for position in positions])
        with torch.enable_grad():
            score = self.scores[positions, wanted].sum()
        gradient = torch.autograd.grad(score, self.context.rows, retain_graph=True)[0]
        laid_out = self.context.keys.padded(torch.stack((gradient, self.context.rows), -1))[0, self.before :]
        slope, state = laid_out[self.slots].unbind(-1)
        layers = [layer[0, positions, self.before :].mean(0)[self.slots] for layer in self.looked]
        found = {f"cross-attention, layer {number}": weights for number, weights in enumerate(layers, 1)}
        found["cross-attention, mean of layers"] = torch.stack(layers).mean(0)
        found["gradient, norm"] = slope.norm(dim=-1)
        found["gradient x state"] = (slope * state).sum(-1).abs()
        found["occlusion of a patch"] = (score - self.hidden[:, positions].sum(1)).clamp(min=0)
        found["chance"] = torch.rand(len(self.slots))
        return {name: weights.detach().view(*self.grid) for name, weights in found.items()}


def of_argument(value: WrittenValue, call: Call, signals: Signals) -> dict[str, Tensor]:
    """The signals of an argument as a whole, and what the engine's own view says of it."""
    assert call.attention is not None
    (image,) = call.attention[value.parameter].images
    view = torch.tensor(image.weights).view(image.rows, image.columns)
    return {**signals.of(list(value.positions)), "view": view}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    engine = Engine.from_pretrained(options.model)
    if engine.processing.image.merge != 1:
        raise SystemExit("this measures models with one visual token a patch (fusion.merge 1), as the quickstart's")
    patch = engine.processing.image.patch_size
    hits: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    wrong = 0

    def note(kind: str, found: dict[str, Tensor], there: Columns) -> None:
        for name, cells in found.items():
            brightest = int(cells.argmax()) % cells.shape[1]
            hits[name][kind].append(brightest in there)
            if kind == "number":
                hits[name]["share on the number"].append(
                    float(cells[:, list(there)].sum() / cells.sum().clamp(min=1e-9))
                )

    times: dict[bool, list[float]] = {False: [], True: []}
    for number, (request, text, label, places) in enumerate(plates(options.count)):
        attention, began = number % 2 == 1, time.perf_counter()
        (reply,) = engine.generate([replace(request, attention=attention)])
        times[attention].append(1000 * (time.perf_counter() - began))
        if not attention:
            reply.calls = engine.attention(request, reply)
        read = {str(value) for call in reply.calls for value in call.arguments.values()}
        if len(reply.calls) != 1 or not {str(json.loads(text)), label} <= read:
            wrong += 1
            continue
        (call,) = reply.calls
        example = engine.encoder.example(request)
        said = {"role": "assistant", "tool_calls": [{"name": call.name, "arguments": call.arguments}]}
        turn = Message.model_validate(said)
        example = replace(example, target=engine.renderer.target(turn, example.specs, example.source))
        signals = Signals(engine, example)
        cells = [columns(place, patch, signals.grid[1]) for place in places]
        for value in written_values(example.target, turn.tool_calls, engine.tokenizer):
            if value.parameter in NUMBERS:
                digits = [p for p in value.positions if engine.tokenizer.token_bytes(signals.labels[p]).isdigit()]
                for position, there in zip(digits, cells, strict=False):  # 12.50 is written 12.5
                    note("digit", signals.of([position]), there)
                note("number", of_argument(value, call, signals), set().union(*cells[:-1]))
            elif value.parameter in LABELS:
                note("label", of_argument(value, call, signals), cells[-1])
    kinds = ("digit", "number", "share on the number", "label")
    sizes = ", ".join(f"{kind} {len(hits['chance'][kind])}" for kind in kinds[:2])
    print(f"{options.count} plates, {wrong} read wrongly; {sizes}, label {len(hits['chance']['label'])}\n")
    without, with_it = (statistics.median(times[attention]) for attention in (False, True))
    print(f"median of a reply: {without:.1f} ms without, {with_it:.1f} ms with what was looked at\n")
    rows = []
    print(f"{'signal':34}" + "".join(f"{kind:>22}" for kind in kinds))
    for name, found in hits.items():
        means = {kind: sum(found[kind]) / len(found[kind]) if found[kind] else None for kind in kinds}
        rows.append({"signal": name, **means})
        print(f"{name:34}" + "".join(f"{'' if mean is None else format(mean, '.3f'):>22}" for mean in means.values()))
    if options.json:
        options.json.write_text(
            json.dumps({"plates": options.count, "wrong": wrong, "ms": [without, with_it], "rows": rows}, indent=1)
            + "\n"
        )


if __name__ == "__main__":
    main()
