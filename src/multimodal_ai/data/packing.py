"""Batches: examples side by side, padded, with every index the model and the losses need.

Functions and images that occur more than once in a batch stand in it once and are pointed at. Sizes that
differ are padded to the longest; lengths travel along, so that a packed layout needs no other fields.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from multimodal_ai.data.examples import Example
from multimodal_ai.data.image_processor import ProcessedImage
from multimodal_ai.data.rendering import COPYABLE_ROLES, TEXT, Card
from multimodal_ai.data.tokenizer import SPECIAL_TOKENS
from multimodal_ai.functions.lexical import lexical_scores
from multimodal_ai.functions.schema import FunctionSpec

IN_MAIN_MEMORY = ("source_lengths", "text_lengths", "target_lengths", "grids", "card_index")  # they decide over shapes
IGNORED = -100
IN_TEXT = -2
WRITTEN = 3  # tokens


@dataclass
class Batch:
    """Tensors of one batch; letters as in models.multimodal_model.ModelInputs. Besides those:

    labels: int[B, T], IGNORED without loss; label_weight: float[B, T]; value: int[B, T] row of the
    parameter being filled, function * P + parameter, IN_TEXT in text that may copy, or -1; copy: int[B, T]
    source position or -1; copyable: bool[B, S]; written: int[B, T, WRITTEN] the last tokens written before
    each label, the latest first, without spaces, -1 none; space: int[] the id of a space; trigger: int[B] or
    -1; selection: float[B, F + 1], a row of zeros for unknown; presence: int[B, F, P], -1 unknown;
    retrieval: float[B, U], the share of each text in what must be found, a row of zeros for examples whose
    functions are listed; retrieval_lexical: float[B, U] their word overlap; retrieval_candidates: bool[U];
    pair_row: int[C] the row of each image-text pair; data_source: int[B] the number of the source in the mix;
    origins: one description a row.

    Where there is something to learn, found here so that no device has to be waited for: label_place: int[n] among
    the B * T positions, with label_real: bool[n], False for those that round n up; copy_place, copy_real: among
    these, where the pointer may copy; presence_place: int[k] among the B * F * P; retrieval_row: int[r] of the
    batch; words: int[W] the tokens of all captions.
    """

    source_ids: Tensor
    source_space: Tensor
    source_role: Tensor
    source_lengths: Tensor
    text_ids: Tensor
    text_space: Tensor
    text_lengths: Tensor
    text_parameter: Tensor
    card_index: Tensor
    lexical: Tensor
    required: Tensor
    patches: Tensor
    grids: Tensor
    slots: Tensor
    slot_image: Tensor
    slot_token: Tensor
    image_index: Tensor
    target_ids: Tensor
    target_lengths: Tensor
    pair_image: Tensor
    pair_text: Tensor
    pair_row: Tensor
    labels: Tensor
    label_weight: Tensor
    value: Tensor
    copy: Tensor
    copyable: Tensor
    written: Tensor
    space: Tensor
    trigger: Tensor
    selection: Tensor
    presence: Tensor
    retrieval: Tensor
    retrieval_lexical: Tensor
    retrieval_candidates: Tensor
    label_place: Tensor
    label_real: Tensor
    copy_place: Tensor
    copy_real: Tensor
    presence_place: Tensor
    retrieval_row: Tensor
    words: Tensor
    data_source: Tensor
    origins: list[str]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device; what decides over shapes stays in main memory."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, for copies that overlap with computing."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        moved = copy.copy(self)
        for part in fields(self):
            if part.name not in ("origins", *IN_MAIN_MEMORY):
                setattr(moved, part.name, change(getattr(self, part.name)))
        return moved

    @property
    def useful_tokens(self) -> int:
        """Source, target and standalone tokens that are not padding."""
        return int(self.source_lengths.sum() + (self.labels != IGNORED).sum() + self.text_lengths.sum())


def rounded(size: int, multiple: int) -> int:
    """The next multiple: few different shapes mean few kernels to compile."""
    return -(-size // multiple) * multiple


def pad_rows(rows: Sequence[Sequence[int]], fill: int, width: int | None = None) -> np.ndarray:
    """Lists of different lengths -> int64[rows, longest or width], filled up with `fill`."""
    width = max((len(row) for row in rows), default=0) if width is None else width
    out = np.full((len(rows), width), fill, dtype=np.int64)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out


def places(mask: np.ndarray, multiple: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Where a mask is True, int64[n] counted flat, with n rounded up so that few shapes occur, and which are real."""
    found = np.flatnonzero(mask)
    added = -len(found) % multiple
    return np.pad(found, (0, added)), np.arange(len(found) + added) < len(found)


def last_written(past: Sequence[int], token: int, space: int) -> tuple[int, ...]:
    """The last tokens written, the latest first, after `token`; spaces are left out."""
    return tuple(past) if token == space else (token, *past[: WRITTEN - 1])


def standalone_texts(examples: Sequence[Example]) -> list[Card]:
    """Cards and captions of a batch, each once, in the order in which they stand in it: the longest first, for
    neighbours are padded alike where attention is written out (models.attention).
    """
    found = {card.key: card for example in examples for card in (*example.cards, example.caption) if card is not None}
    return sorted(found.values(), key=lambda card: -len(card.ids))


def collate(examples: Sequence[Example], patch_values: int, space: int, multiple: int = 1) -> Batch:
    """Put examples side by side.

    patch_values: 3 * patch_size², the width of a batch without images. space: the id of a space. multiple:
    sequence lengths and the number of texts are rounded up to it, that of images to its half, with empty texts
    and images; training does so.
    """
    B = len(examples)
    P = max((1, *(len(marks) for example in examples for marks in example.required)))  # the head wants one at least
    cards = standalone_texts(examples)
    number_of = {card.key: number for number, card in enumerate(cards)}
    images: dict[str, tuple[int, ProcessedImage]] = {}

    def text_number(card: Card) -> int:
        return number_of[card.key]

    def image_number(image: ProcessedImage) -> int:
        return images.setdefault(image.key, (len(images), image))[0]

    S = rounded(max(len(example.source.ids) for example in examples), multiple)
    T = rounded(max(len(example.target.ids) for example in examples), multiple)
    F = max(0 if example.hidden else len(example.cards) for example in examples)
    G = max(len(example.images) for example in examples)
    card_index = np.full((B, F), -1, dtype=np.int64)
    image_index = np.full((B, G), -1, dtype=np.int64)
    lexical, required = np.zeros((B, F), dtype=np.float32), np.zeros((B, F, P), dtype=bool)
    selection, presence = np.zeros((B, F + 1), dtype=np.float32), np.full((B, F, P), -1, dtype=np.int64)
    slots, slot_image, slot_token = list[int](), list[int](), list[int]()
    value, weight = np.full((B, T), -1, dtype=np.int64), np.zeros((B, T), dtype=np.float32)
    written = np.full((B, T, WRITTEN), -1, dtype=np.int64)
    pair_image, pair_text, pair_row = list[int](), list[int](), list[int]()
    hidden = dict[int, FunctionSpec]()  # by the number of the text
    for row, example in enumerate(examples):
        numbers = [image_number(image) for image in example.images]
        image_index[row, : len(numbers)] = numbers
        for position, image, token in example.source.slots:
            slots.append(row * S + position)
            slot_image.append(numbers[image])
            slot_token.append(token)
        if example.hidden:
            hidden.update(zip(map(text_number, example.cards), example.specs, strict=True))
            continue
        for number, card in enumerate(example.cards):
            card_index[row, number] = text_number(card)
            required[row, number, : len(example.required[number])] = example.required[number]
        lexical[row, : len(example.lexical)] = example.lexical
        if example.selection is not None:
            selection[row, : len(example.cards)] = example.selection[:-1]
            selection[row, -1] = example.selection[-1]
        for number, marks in enumerate(example.presence):
            presence[row, number, : len(marks)] = marks
        for position, where in enumerate(example.target.parameter):
            if where is not None:
                value[row, position] = IN_TEXT if where == TEXT else where[0] * P + where[1]
        weight[row, : len(example.target.weight)] = example.target.weight
        past: tuple[int, ...] = (-1,) * WRITTEN
        for position, token in enumerate(example.target.ids):
            written[row, position] = past = last_written(past, token, space)
        if example.caption is not None:
            pair_image.append(numbers[0])
            pair_text.append(text_number(example.caption))
            pair_row.append(row)
    U = rounded(len(cards), multiple)
    retrieval, retrieval_lexical = np.zeros((B, U), dtype=np.float32), np.zeros((B, U), dtype=np.float32)
    for row, example in enumerate(examples):
        if example.hidden and example.selection is not None:
            retrieval[row, [text_number(card) for card in example.cards]] = example.selection[:-1]
            retrieval_lexical[row, list(hidden)] = lexical_scores(example.asked, list(hidden.values()))
    cards += [Card((), (), (), "")] * (U - len(cards))
    L = rounded(max((len(card.ids) for card in cards), default=0), multiple)
    role = pad_rows([example.source.role for example in examples], 0, S)
    N = max((len(image.patches) for _, image in images.values()), default=0)
    patches = torch.zeros(rounded(len(images), -(-multiple // 2)), N, patch_values, dtype=torch.uint8)
    for number, shown in images.values():
        patches[number, : len(shown.patches)] = shown.patches
    grids = [shown.grid for _, shown in images.values()] + [(0, 0)] * (len(patches) - len(images))
    source_lengths = np.array([len(example.source.ids) for example in examples])
    source_ids = pad_rows([example.source.ids for example in examples], 0, S)  # padding is a special token
    labels = pad_rows([example.target.labels for example in examples], IGNORED, T)
    text_ids = pad_rows([card.ids for card in cards], 0, L)
    label_place, label_real = places(labels != IGNORED)
    value_there = np.where(label_real, value.reshape(-1)[label_place], -1)
    copy_place, copy_real = places((value_there >= 0) | (value_there == IN_TEXT))
    words = np.unique(text_ids[pair_text])
    copyable = np.isin(role, COPYABLE_ROLES) & (source_ids >= len(SPECIAL_TOKENS))
    tensor = torch.from_numpy
    return Batch(
        source_ids=tensor(source_ids),
        source_space=tensor(pad_rows([example.source.space for example in examples], 0, S).astype(bool)),
        source_role=tensor(role),
        source_lengths=tensor(source_lengths),
        text_ids=tensor(text_ids),
        text_space=tensor(pad_rows([card.space for card in cards], 0, L).astype(bool)),
        text_lengths=torch.tensor([len(card.ids) for card in cards], dtype=torch.long),
        text_parameter=tensor(pad_rows([card.parameter for card in cards], -1, L)),
        card_index=tensor(card_index),
        lexical=tensor(lexical),
        required=tensor(required),
        patches=patches,
        grids=torch.tensor(grids, dtype=torch.long).view(len(grids), 2),
        slots=torch.tensor(slots, dtype=torch.long),
        slot_image=torch.tensor(slot_image, dtype=torch.long),
        slot_token=torch.tensor(slot_token, dtype=torch.long),
        image_index=tensor(image_index),
        target_ids=tensor(pad_rows([example.target.ids for example in examples], 0, T)),
        target_lengths=torch.tensor([len(example.target.ids) for example in examples], dtype=torch.long),
        pair_image=torch.tensor(pair_image, dtype=torch.long),
        pair_text=torch.tensor(pair_text, dtype=torch.long),
        pair_row=torch.tensor(pair_row, dtype=torch.long),
        labels=tensor(labels),
        label_weight=tensor(weight),
        value=tensor(value),
        copy=tensor(pad_rows([example.target.copy for example in examples], -1, T)),
        copyable=tensor(copyable),
        written=tensor(written),
        space=torch.tensor(space),
        trigger=torch.tensor([example.trigger for example in examples], dtype=torch.long),
        selection=tensor(selection),
        presence=tensor(presence),
        retrieval=tensor(retrieval),
        retrieval_lexical=tensor(retrieval_lexical),
        retrieval_candidates=tensor(np.isin(np.arange(U), list(hidden))),
        label_place=tensor(label_place),
        label_real=tensor(label_real),
        copy_place=tensor(copy_place),
        copy_real=tensor(copy_real),
        presence_place=tensor(np.flatnonzero(presence >= 0)),
        retrieval_row=tensor(np.flatnonzero(retrieval.any(1))),
        words=tensor(words[words >= len(SPECIAL_TOKENS)]),
        data_source=torch.tensor([example.data_source for example in examples], dtype=torch.long),
        origins=[example.origin for example in examples],
    )
