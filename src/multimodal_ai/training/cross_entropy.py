"""Cross-entropy over a large vocabulary without its FP32 copies.

Logits are kept once, in the precision of the activations, and become their own gradient in the backward pass; the
softmax in FP32 exists for a few rows at a time, which on a CPU never leave the cache. Torch's own loss holds logits,
their FP32 copy, the log-softmax and two gradients at once: 14 bytes for each logit instead of 2. Only positions that
carry a loss may be given here: what has none should not get logits at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from multimodal_ai.models.layers import no_autocast

CHUNK = {"cpu": 2**18}  # logits in FP32 at a time: one megabyte on a CPU
CHUNK_ELSEWHERE = 2**26


def token_losses(states: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(states @ embedding.T)[label] of each row: float32[n].

    states: float[n, D] and embedding: float[V, D] in one dtype; labels: int[n]. Can be differentiated once.
    """
    result: Tensor = _TokenLosses.apply(states, embedding, labels)
    return result


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        with no_autocast(states.device):
            logits = states @ embedding.T
        normaliser = torch.empty(len(states), device=states.device)
        for rows in _chunks(logits):
            torch.logsumexp(logits[rows].float(), 1, out=normaliser[rows])
        ctx.save_for_backward(states, embedding, labels, normaliser)
        ctx.logits = logits
        return normaliser - logits.gather(1, labels[:, None]).squeeze(1).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        states, embedding, labels, normaliser = ctx.saved_tensors
        gradient, ctx.logits = ctx.logits, None
        assert gradient is not None, "the logits have become their gradient; this can be done once"
        for rows in _chunks(gradient):
            chance = gradient[rows].float().sub_(normaliser[rows, None]).exp_()
            chance.scatter_add_(1, labels[rows, None], chance.new_full((1, 1), -1.0).expand(len(chance), 1))
            gradient[rows] = chance.mul_(upstream[rows, None])
        with no_autocast(states.device):
            to_states = gradient @ embedding if ctx.needs_input_grad[0] else None
            to_embedding = gradient.T @ states if ctx.needs_input_grad[1] else None
        return to_states, to_embedding, None


def _chunks(logits: Tensor) -> Iterator[slice]:
    size = max(CHUNK.get(logits.device.type, CHUNK_ELSEWHERE) // logits.shape[1], 1)
    return (slice(first, first + size) for first in range(0, len(logits), size))
