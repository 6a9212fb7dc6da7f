"""The requests that are being answered: rows that join and leave a batch between steps.

`write` chooses and writes the next token of every row, and all that the grammar forces behind it; `advance`
runs the decoder once over what was written. A row never sees another: its settings, random numbers, cache and
context are its own, and greedy rows come out alike alone and in a full batch. The rows in use always stand
first, so a step computes nothing for empty places.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from multimodal_ai.inference.decoding import DecodingBackend, PaddedRows
from multimodal_ai.inference.encoding import Prefilled
from multimodal_ai.inference.reply_writer import Copied, ReplyWriter
from multimodal_ai.inference.requests import Delta
from multimodal_ai.inference.sampling import Sampler, sample
from multimodal_ai.models.function_head import continuation, copied_ids
from multimodal_ai.models.multimodal_model import MultimodalModel

T = TypeVar("T")


@dataclass(eq=False)
class Row(Generic[T]):
    """One request while it is being answered. tag: whatever the caller knows it by."""

    tag: T
    writer: ReplyWriter
    sampler: Sampler
    parameters: Tensor  # float[F, P, D]
    source: int  # tokens of the conversation
    role: list[int]  # of each source token
    pending: list[int] = field(default_factory=list)  # written, but not yet run through the decoder


class RunningBatch(Generic[T]):
    """See the module's docstring. backend: what runs the decoder; space: the id of a space."""

    def __init__(self, model: MultimodalModel, backend: DecodingBackend, space: int) -> None:
        self.model = model
        self.rows: list[Row[T]] = []
        self._space = torch.tensor(space, device=model.device)
        self._decoder = backend.rows()
        self._scores = PaddedRows()  # float32[n, V], what the next token is chosen from
        self._last, self._copy_keys, self._ids, self._spaces, self._copyable = (PaddedRows() for _ in range(5))

    # -- joining and leaving ----------------------------------------------------------------------------------

    def _tables(self) -> Iterator[PaddedRows]:
        yield from (self._last, self._scores, self._copy_keys, self._ids, self._spaces, self._copyable)

    @torch.inference_mode()
    def add(self, tag: T, writer: ReplyWriter, prefilled: Prefilled) -> Row[T]:
        """A request joins; the next `write` gives its first token."""
        number = len(self.rows)
        self._decoder.add(writer.opening, prefilled.memory, prefilled.written)
        self._last.put(number, prefilled.last[None])
        self._scores.put(number, self.model.logits(prefilled.last))
        self._copy_keys.put(number, prefilled.copy_keys)
        self._ids.put(number, prefilled.source_ids)
        self._spaces.put(number, prefilled.source_space)
        self._copyable.put(number, prefilled.copyable)
        row = Row(
            tag,
            writer,
            Sampler(writer.request),
            prefilled.parameters,
            len(prefilled.source_ids),
            prefilled.source_role.tolist(),
        )
        self.rows.append(row)
        return row

    @torch.inference_mode()
    def remove(self, row: Row[T]) -> None:
        """A request leaves, finished or not; the last one takes its place."""
        number, last = self.rows.index(row), len(self.rows) - 1
        if number != last:
            for table in self._tables():
                table.move(last, number)
            self.rows[number] = self.rows[last]
        self.rows.pop()
        self._decoder.remove(number)

    def clear(self) -> None:
        """All leave."""
        while self.rows:
            self.remove(self.rows[-1])

    # -- a step -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def write(self) -> Iterator[tuple[T, Delta | ValueError]]:
        """The next tokens of every row, as pieces of its reply; rows whose reply is complete leave.

        A row whose grammar fails leaves with the error; the others go on.
        """
        failed = [(row, error) for row in self.rows if (error := _prepared(row)) is not None]
        for row, error in failed:
            self.remove(row)
            yield row.tag, error
        if not self.rows:
            return
        logits, copied = self._logits()
        tokens, log_probabilities = sample(logits, [row.sampler for row in self.rows])
        chosen = log_probabilities[torch.arange(len(tokens)), torch.tensor(tokens)].tolist()
        for number, row in enumerate(list(self.rows)):
            token, writer = tokens[number], row.writer
            top = writer.likeliest(log_probabilities[number])
            try:
                row.pending.append(token)
                for delta in writer.write(token, chosen[number], copied.get(number, {}).get(token), top=top):
                    yield row.tag, delta
                while not writer.finished and (forced := writer.steering.matcher.forced()):
                    for index in forced:
                        if not writer.finished:
                            row.pending.append(index)
                            for delta in writer.write(index, 0.0, None, forced=True):
                                yield row.tag, delta
            except ValueError as error:
                writer.finished = True
                yield row.tag, error
        for row in [row for row in self.rows if row.writer.finished]:
            self.remove(row)

    @torch.inference_mode()
    def advance(self) -> None:
        """Run the decoder over what `write` wrote."""
        if not self.rows:
            return
        last, scores = self._decoder.step([row.pending for row in self.rows])
        n = len(self.rows)
        self._last.view(n, 1)[:, 0] = last
        self._scores.view(n, scores.shape[1])[:] = scores
        for row in self.rows:
            row.pending = []

    def _logits(self) -> tuple[Tensor, dict[int, dict[int, Copied]]]:
        """Masked log-scores float32[n, V], and for rows where the pointer may copy what it gave; see `_point`."""
        n = len(self.rows)
        last = self._last.view(n, 1)[:, 0]
        logits = self._scores.view(n, self.model.config.vocab_size)  # written to: the next step replaces it
        copied = self._point(logits, last)
        for number, row in enumerate(self.rows):
            allowed, bias = row.writer.allowed, row.writer.bias
            for token, weight in bias.items():
                logits[number, token] += weight
            logits[number].masked_fill_(torch.from_numpy(~allowed).to(last.device), float("-inf"))
        return logits, copied

    def _point(self, logits: Tensor, last: Tensor) -> dict[int, dict[int, Copied]]:
        """Mix what the pointer copies into the logits of rows inside a value, or in text behind a result.

        Returns by row how much of each of the likeliest copied tokens the pointer gave, and the token's role.
        """
        device = last.device
        places: list[int] = []
        wanted: list[Tensor] = []
        for number, row in enumerate(self.rows):
            where = row.writer.steering.value()
            if where is not None:
                places.append(number)
                wanted.append(row.parameters[where[0], where[1]])
            elif row.writer.answers_result and row.writer.steering.in_text:
                places.append(number)
                wanted.append(torch.zeros_like(last[0]))
        if not places:
            return {}
        longest = max(self.rows[number].source for number in places)
        index = torch.tensor(places, device=device)
        keys, source_ids, space, copyable = (
            table.view(len(self.rows), longest)[index]
            for table in (self._copy_keys, self._ids, self._spaces, self._copyable)
        )
        written = torch.tensor([self.rows[number].writer.written for number in places], device=device)
        continues = continuation(source_ids, written)
        spelled = [self.rows[number].writer.steering.spelled_out() for number in places]
        for line, values in enumerate(spelled):
            for value in values:
                continues[line, value.start : value.end, : value.agreed] = True
        gate, attention = self.model.head.copy_scores(last[index], torch.stack(wanted), keys, copyable, continues)
        last_token = torch.tensor([self.rows[number].writer.last for number in places], device=device)
        ids = copied_ids(source_ids, space, continues, last_token, self._space)
        generate = logits[index].log_softmax(-1)
        for line, values in enumerate(spelled):
            for value in values:
                ids[line, value.start : value.end] = max(value.tokens, key=lambda id: float(generate[line, id]))
        weights = (attention.exp() * copyable).float()
        pointed = torch.zeros_like(generate).scatter_add_(1, ids, weights)
        mixture = torch.logaddexp(
            F.logsigmoid(-gate)[:, None] + generate, F.logsigmoid(gate)[:, None] + pointed.clamp(min=1e-30).log()
        )
        logits[index] = mixture
        share = (F.logsigmoid(gate)[:, None] + pointed.clamp(min=1e-30).log() - mixture).exp()
        copied = {}
        for line, number in enumerate(places):
            best = weights[line].topk(min(4, weights.shape[1])).indices.tolist()
            role = self.rows[number].role
            copied[number] = {
                int(ids[line, position]): (float(share[line, ids[line, position]]), role[position])
                for position in reversed(best)
                if position < len(role)
            }
        return copied


def _prepared(row: Row[T]) -> ValueError | None:
    """Ask the grammar what may come next; a grammar that cannot say is the row's error."""
    try:
        row.writer.prepare()
    except ValueError as error:
        return error
    return None
