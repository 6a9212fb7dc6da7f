"""What the model looked at while it wrote each argument of a call: words of the conversation, cells of its images.

One pass with the finished calls as the target. A value's token either was copied by the pointer, from source tokens
that write just this token, or was generated while the decoder's last layer attended to cards and conversation. Each
token shares itself out: the pointer's part goes to the tokens copied from, the rest to where the last layer looked
(the mean of its heads). An argument gets the mean over the tokens of its value. Why these signals, and how often the
brightest cell is the right one: docs/decisions.md. It is a view of a finished reply and never changes one; where a
model looked is no proof of why it wrote what it wrote.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from multimodal_ai.data.examples import Example
from multimodal_ai.data.messages import Message, ToolCall
from multimodal_ai.data.packing import Batch
from multimodal_ai.data.rendered_call import Value, render_call
from multimodal_ai.data.rendering import PartSpan, Renderer, Source, Target
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions.normalise import form_of
from multimodal_ai.inference.encoding import RequestEncoder
from multimodal_ai.inference.requests import Call, Reply, Seen, SeenImage, SeenWord
from multimodal_ai.inference.spelled import SpelledValue, SpelledValues
from multimodal_ai.models.decoder import Context
from multimodal_ai.models.function_head import continuation, copied_ids

LEAST = 0.01  # words with less weight are left out
# a run of letters and digits, one sign, or one character of a script that puts no spaces between words
_WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]")


@dataclass(frozen=True)
class WrittenValue:
    """A value in the target: the positions that write it, and for each what stands of its JSON before."""

    call: int
    parameter: str
    positions: tuple[int, ...]
    before: tuple[str, ...]


def calls_with_attention(encoder: RequestEncoder, example: Example, today: datetime.date, reply: Reply) -> list[Call]:
    """The reply's calls with `attention`. example: the request without an answer; `today`: as when it was answered."""
    said = [{"name": call.name, "arguments": call.arguments} for call in reply.calls]
    turn = Message.model_validate({"role": "assistant", "content": reply.content, "tool_calls": said})
    rendering = encoder.renderer.config.model_copy(update={"max_target": 1 << 20})
    target = Renderer(encoder.tokenizer, rendering).target(turn, example.specs, example.source)
    written = list(written_values(target, turn.tool_calls, encoder.tokenizer))
    weights = _weights(
        encoder, replace(example, target=target), written, SpelledValues(example.source, encoder.tokenizer, today)
    )
    found: list[dict[str, Seen]] = [{} for _ in reply.calls]
    for value, row in zip(written, weights, strict=True):
        found[value.call][value.parameter] = _seen(example, row, encoder)
    return [replace(call, attention=seen) for call, seen in zip(reply.calls, found, strict=True)]


def written_values(target: Target, calls: Sequence[ToolCall], tokenizer: Tokenizer) -> Iterator[WrittenValue]:
    """Every value of the calls and the positions that write it; of lists and objects only the leaves count."""
    special = tokenizer.special
    starts = [position for position, label in enumerate(target.labels) if label == special.call]
    for number, (start, call) in enumerate(zip(starts, calls, strict=True)):
        rendered = render_call(call.name, call.arguments)
        raw = rendered.text.encode()
        spans, place = list[tuple[int, int]](), 0
        for label in target.labels[start + 1 : target.labels.index(special.call_end, start)]:
            size = len(tokenizer.token_bytes(label))
            spans.append((place, place + size))
            place += size
        for value in rendered.values:
            inside = [n for n, span in enumerate(spans) if any(_overlap(span, leaf) for leaf in _leaves(value))]
            begin = value.start - (raw[value.start - 1 : value.start] == b'"')
            before = tuple(raw[begin : spans[n][0]].decode("utf-8", "ignore") for n in inside)
            yield WrittenValue(number, value.parameter, tuple(start + 1 + n for n in inside), before)


def _leaves(value: Value) -> Sequence[tuple[int, int]]:
    """Places of what a value says; those of a boolean, null, or something empty are all of it."""
    said = [leaf for leaf in value.leaves if leaf[0] < leaf[1]]
    return said or [(value.start, max(value.end, value.start + 1))]


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


@torch.inference_mode()
def _weights(
    encoder: RequestEncoder, example: Example, written: Sequence[WrittenValue], spelled: SpelledValues
) -> list[np.ndarray]:
    """For each value the weight of every source token, float64[S]."""
    model, batch = encoder.model, encoder.batch([example])
    context = encoder.context([example], batch)
    states, looked = model.decoder.look(model.embed_target(batch.target_ids), batch.target_lengths, context)
    S = len(example.source.ids)
    own = context.keys.packing.lengths[0] - S  # where the conversation begins among the keys, behind the cards
    weights = looked[-1][0, :, own : own + S].double().cpu()  # [T, S]
    for position, copied in _copied(encoder, example, batch, context, states[0], written, spelled).items():
        weights[position] = weights[position] * (1 - copied.sum()) + copied
    return [weights[list(value.positions)].mean(0).numpy() for value in written]


def _copied(
    encoder: RequestEncoder,
    example: Example,
    batch: Batch,
    context: Context,
    states: Tensor,
    written: Sequence[WrittenValue],
    spelled: SpelledValues,
) -> dict[int, Tensor]:
    """How likely it is, now that it is known which token came, that it was copied from each source token: float64[S]
    by target position, its sum at most 1. As inference.running_batch mixes pointer and decoder.
    """
    target, head = example.target, encoder.model.head
    places: list[tuple[int, tuple[int, int]]] = []
    spans: list[list[SpelledValue]] = []
    for value in written:
        for position, before in zip(value.positions, value.before, strict=True):
            where = target.parameter[position]
            if where is not None:
                spec = example.specs[where[0]]
                form = form_of(spec.parameter_schema(spec.parameter_names[where[1]]))
                places.append((position, where))
                spans.append(spelled.continuing(form, before) if form is not None else [])
    if not places or context.texts is None:
        return {}
    device, n = states.device, len(places)
    index = torch.tensor([position for position, _ in places], device=device)
    parameters = head.parameter_embeddings(context.texts.states, batch.text_parameter, batch.required.shape[-1])
    filled = torch.stack([parameters[int(batch.card_index[0, f]), p] for _, (f, p) in places])
    source_ids, space, copyable = (x.expand(n, -1) for x in (batch.source_ids, batch.source_space, batch.copyable))
    keys = head.copy_key(context.states).expand(n, -1, -1)
    continues = continuation(source_ids, batch.written[0, index])
    for line, values in enumerate(spans):
        for spelling in values:
            continues[line, spelling.start : spelling.end, : spelling.agreed] = True
    gate, attention = head.copy_scores(states[index], filled, keys, copyable, continues)
    ids = copied_ids(source_ids, space, continues, batch.target_ids[0, index], batch.space)
    labels = batch.labels[0, index]
    for line, values in enumerate(spans):
        for spelling in values:
            if int(labels[line]) in spelling.tokens:
                ids[line, spelling.start : spelling.end] = labels[line]
    copy = attention.exp() * (copyable & (ids == labels[:, None])) * gate.sigmoid()[:, None]
    generate = encoder.model.logits(states[index]).softmax(-1).gather(1, labels[:, None]) * (-gate).sigmoid()[:, None]
    share = (copy / (copy.sum(1, keepdim=True) + generate)).nan_to_num().double().cpu()
    found = {position: row for (position, _), row in zip(places, share, strict=True)}
    return _continued(found, target, encoder.tokenizer.space)


def _continued(copied: dict[int, Tensor], target: Target, space: int) -> dict[int, Tensor]:
    """The same, knowing what was written next: of the places that write a token, those that go on as the value does.

    Without it the first digit of 4711 would light up every 4 of the conversation.
    """
    for position in sorted(copied, reverse=True):
        row, following = copied[position], copied.get(position + 1)
        if following is not None and row.any():
            behind = following if target.labels[position] == space else following.roll(-1)
            narrowed = row * (behind + 1e-4 * following.sum())
            if narrowed.any():
                copied[position] = narrowed * (row.sum() / narrowed.sum())
    return copied


def _seen(example: Example, weights: np.ndarray, encoder: RequestEncoder) -> Seen:
    """Weights of source tokens as words and images of the messages."""
    words, images = list[SeenWord](), list[SeenImage]()
    source, rendering = example.source, encoder.renderer.config
    for span in source.parts:
        if span.image < 0:
            words += _words(source, span, weights, encoder.tokenizer)
        elif rendering.image_slots == "patches":
            rows, columns = (side // rendering.merge for side in example.images[span.image].grid)
            cells = tuple(round(float(weight), 4) for weight in weights[span.start : span.end])
            images.append(SeenImage(span.message, span.part, rows, columns, cells))
    return Seen(tuple(words), tuple(images))


def _words(source: Source, span: PartSpan, weights: np.ndarray, tokenizer: Tokenizer) -> Iterator[SeenWord]:
    """The words of a text part that got at least LEAST. A token's weight is spread over its bytes."""
    raw, spread = b"", [0.0]
    for position in range(span.start, span.end):
        piece = tokenizer.token_bytes(source.ids[position])
        blank = b" " * source.space[position]
        raw += blank + piece
        spread += [0.0] * len(blank) + [float(weights[position]) / len(piece)] * len(piece)
    text, until = raw.decode("utf-8", "replace"), np.cumsum(spread)
    ends = np.cumsum([0, *(len(character.encode()) for character in text)])
    for match in _WORD.finditer(text):
        weight = until[ends[match.end()]] - until[ends[match.start()]]
        if weight >= LEAST:
            yield SeenWord(span.message, span.part, match.start(), match.end(), round(float(weight), 4))
