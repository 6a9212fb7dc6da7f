"""FunctionCallingHead: when to call, which function, and with what.

It reads the decoder's state at the first position, before any token is written, and the encoded cards:
*when* is a four-way trigger, *which* compares the state with each card's embedding, *with what* is a
pointer over the source tokens, conditioned on the parameter's description, and a presence score for each
parameter. A card's embedding never depends on the request. The head scores; it never changes tokens.

Further letters: F functions of a sample, P parameters of a function, G layers + 1 of the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_ai.models.decoder import Context
from multimodal_ai.models.layers import AttentionPooling, LayerNorm, SwiGLU
from multimodal_ai.utils.config import ConfigModel

TRIGGER_CLASSES = ("answer", "call", "ask_missing", "cannot")


class HeadConfig(ConfigModel):
    """Width of the function-calling head."""

    width: int = 128  # of the selection space and of the pointer


@dataclass
class FunctionScores:
    """What the head says before the first token.

    state: float[B, D] the pooled decision state;
    trigger: float[B, 4] logits in the order of TRIGGER_CLASSES;
    selection: float[B, F + 1] logits, the last for "none of them", -inf where there is no function;
    presence: float[B, F, P] logits that the parameter is given a value.
    """

    state: Tensor
    trigger: Tensor
    selection: Tensor
    presence: Tensor


class FunctionCallingHead(nn.Module):
    """Trigger, selection, presence and pointer; see the module's docstring."""

    def __init__(self, config: HeadConfig, text_width: int, decoder_width: int, decoder_layers: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.layer_mix = nn.Parameter(torch.zeros(decoder_layers + 1))
        self.state_norm = LayerNorm(decoder_width)
        self.context_probe = AttentionPooling(text_width, 4, decoder_width)
        self.state_mlp = SwiGLU(2 * decoder_width, decoder_width, decoder_width)
        self.decision_norm = LayerNorm(decoder_width)  # without it single steps threw the trigger's loss to 4 and more
        # which
        self.selection_query = nn.Linear(decoder_width, width, bias=False)
        self.selection_key = nn.Linear(width, width, bias=False)
        self.null_key = nn.Parameter(torch.randn(width) * width**-0.5)
        self.selection_scale = nn.Parameter(torch.tensor(2.3))  # log of the inverse temperature, 10
        self.lexical_scale = nn.Parameter(torch.tensor(1.0))
        # with what
        self.parameter_norm = LayerNorm(text_width)
        self.presence_query = nn.Linear(text_width, width, bias=False)
        self.presence_key = nn.Linear(text_width, width, bias=False)
        self.presence_mlp = SwiGLU(decoder_width + 2 * text_width, decoder_width, 1)
        self.copy_query = nn.Linear(decoder_width, width, bias=False)
        self.copy_parameter = nn.Linear(text_width, width, bias=False)
        self.copy_key = nn.Linear(text_width, width, bias=False)
        self.copy_gate = nn.Linear(decoder_width + width, 1)
        self.continue_scale = nn.Parameter(torch.tensor([3.0, 1.0, 1.0]))  # for 1, 2, 3 tokens that agree
        # when
        self.trigger_mlp = SwiGLU(decoder_width + 5, decoder_width, len(TRIGGER_CLASSES))

    def parameter_embeddings(self, states: Tensor, parameter_of_token: Tensor, count: int) -> Tensor:
        """Mean state of each parameter's tokens in its card: float[U, L, D], int[U, L] (-1 none) -> float[U, P, D].

        count: P, the most parameters of a card; a text that is no card has none and gets zeros.
        """
        parameter = torch.arange(count, device=states.device)
        member = (parameter_of_token[..., None] == parameter).to(states.dtype)  # [U, L, P]
        total = torch.einsum("ulp,uld->upd", member, states)
        return self.parameter_norm(total / member.sum(1).clamp(min=1)[..., None])

    def forward(
        self,
        first: Tensor,
        context: Context,
        parameters: Tensor | None,
        lexical: Tensor,
        required: Tensor,
    ) -> FunctionScores:
        """first: float[B, G, D] the decoder's first position after every layer; parameters: float[U, P, D];
        lexical: float[B, F] word-overlap score of each function; required: bool[B, F, P].
        """
        mixed = torch.einsum("bgd,g->bd", first.float(), self.layer_mix.softmax(0))
        seen = self.context_probe(context.states, context.valid)
        state = self.decision_norm(self.state_mlp(torch.cat((self.state_norm(mixed), seen.float()), dim=-1)))
        B = state.shape[0]
        query = F.normalize(self.selection_query(state).float(), dim=-1)
        scale = self.selection_scale.exp()
        null = scale * (query @ F.normalize(self.null_key, dim=0))
        if context.texts is None or context.card_index is None or parameters is None:
            none = torch.zeros(B, 0, device=state.device)
            selection = torch.cat((none, null[:, None]), dim=1)
            presence = torch.zeros(B, 0, required.shape[-1], device=state.device)
            features = torch.zeros(B, 5, device=state.device)
        else:
            card_index = context.card_index
            listed = card_index >= 0
            index = card_index.clamp(min=0)
            keys = self.card_keys(context.texts.pooled)[index]  # [B, F, width]
            scores = scale * torch.einsum("bw,bfw->bf", query, keys) + self.lexical_scale * lexical
            scores = scores.masked_fill(~listed, float("-inf"))
            selection = torch.cat((scores, null[:, None]), dim=1)
            presence = self._presence(state, context, parameters[index])
            features = self._trigger_features(selection, presence, required, listed)
        trigger = self.trigger_mlp(torch.cat((state, features.to(state.dtype)), dim=-1))
        return FunctionScores(state, trigger.float(), selection.float(), presence.float())

    def card_keys(self, pooled: Tensor) -> Tensor:
        """Normalised selection keys of cards: float[U, width] pooled -> float[U, width]."""
        return F.normalize(self.selection_key(pooled).float(), dim=-1)

    def match(self, state: Tensor, keys: Tensor, lexical: Tensor) -> Tensor:
        """Scores of any number of functions, none of which the state has seen: float[n, D] states, float[U, width]
        keys of cards, float[n, U] word-overlap scores -> float[n, U] logits.
        """
        query = F.normalize(self.selection_query(state).float(), dim=-1)
        return self.selection_scale.exp() * query @ keys.T + self.lexical_scale * lexical

    def _presence(self, state: Tensor, context: Context, parameters: Tensor) -> Tensor:
        """Does the conversation give this parameter a value? parameters: float[B, F, P, D] -> float[B, F, P]."""
        query = self.presence_query(parameters)
        key = self.presence_key(context.states)
        scores = torch.einsum("bfpw,bsw->bfps", query, key).float() * self.config.width**-0.5
        scores = scores.masked_fill(~context.valid[:, None, None], torch.finfo(torch.float32).min)
        found = torch.einsum("bfps,bsd->bfpd", scores.softmax(-1).to(context.states.dtype), context.states)
        shared = state[:, None, None].expand(*parameters.shape[:3], -1)
        joined = torch.cat((shared.to(found.dtype), parameters.to(found.dtype), found), dim=-1)
        return self.presence_mlp(joined).squeeze(-1)

    @staticmethod
    def _trigger_features(selection: Tensor, presence: Tensor, required: Tensor, listed: Tensor) -> Tensor:
        """Best and pooled similarity, margin over "none", number of functions, coverage: float[B, 5].

        Coverage is the smallest presence among the best function's required parameters: a call whose
        required value is nowhere to be found should become a question.
        """
        scores, null = selection[:, :-1].float(), selection[:, -1].float()
        any_listed = listed.any(1)
        best, which = scores.max(1)
        best = torch.where(any_listed, best, null)
        pooled = torch.where(any_listed, scores.logsumexp(1), null)
        row = torch.arange(scores.shape[0], device=scores.device)
        found = presence[row, which].float().sigmoid().masked_fill(~required[row, which], 1.0)
        found = F.pad(found, (0, 1), value=1.0)  # functions without parameters have nothing to find
        features = (best / 10, (pooled - null) / 10, (best - null) / 10, listed.sum(1).float().log1p(), found.amin(1))
        return torch.stack(features, dim=1) * any_listed[:, None]  # without functions, as in a batch without any

    def copy_scores(
        self, states: Tensor, parameter: Tensor, source_keys: Tensor, copyable: Tensor, continues: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The pointer at n positions inside argument values, or in text that may copy.

        states: float[n, D] of the decoder; parameter: float[n, D] embedding of the parameter being filled,
        zeros in text;
        source_keys: float[n, S, width] from `copy_key`; copyable: bool[n, S], the tokens that may be copied;
        continues: bool[n, S, W] from `continuation`, the tokens that go on with what was just written.
        Returns the logit of copying, float[n], and log-attention over the source, float[n, S]
        (See et al., arXiv 1704.04368, with the parameter's description added to the query).
        """
        query = self.copy_query(states) + self.copy_parameter(parameter)
        scores = torch.einsum("nw,nsw->ns", query, source_keys).float() * self.config.width**-0.5
        scores = scores + continues.float() @ self.continue_scale
        scores = scores.masked_fill(~copyable, torch.finfo(torch.float32).min)
        attention = scores.log_softmax(-1)
        read = torch.einsum("ns,nsw->nw", attention.exp().to(source_keys.dtype), source_keys)
        gate = self.copy_gate(torch.cat((states.to(read.dtype), read), dim=-1)).squeeze(-1).float()
        nothing = ~copyable.any(1)
        return gate.masked_fill(nothing, -30.0), attention


def continuation(source_ids: Tensor, written: Tensor) -> Tensor:
    """Which source tokens go on with what was just written, whose verbatim copy is then the likeliest.

    source_ids: int[n, S]; written: int[n, W] the last tokens written, the latest first, without spaces.
    Returns bool[n, S, W]: at w, the w + 1 tokens before this one are the last w + 1 that were written.
    """
    matches, so_far = [], torch.ones_like(source_ids, dtype=torch.bool)
    for back in range(1, written.shape[1] + 1):
        before = F.pad(source_ids, (back, 0), value=-2)[:, : source_ids.shape[1]]
        so_far = so_far & (before == written[:, back - 1 : back])
        matches.append(so_far)
    return torch.stack(matches, dim=-1)


def copied_ids(source_ids: Tensor, source_space: Tensor, continues: Tensor, last: Tensor, space: Tensor) -> Tensor:
    """What copying a source token writes: int[n, S].

    Its id, or first the space that was folded into it, where the token before it has just been written.
    source_ids: int[n, S]; source_space: bool[n, S]; continues: bool[n, S, W]; last: int[n] the last token
    written; space: int[] the id of a space.
    """
    due = source_space & continues[..., 0] & (last != space)[:, None]
    return torch.where(due, space, source_ids)
