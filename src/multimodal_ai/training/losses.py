"""The losses of all stages: sums per term, and what each term is divided by.

`TrainingObjective` wraps the model so that one forward gives every term's sum over the batch. Sums are
divided by the global count of the whole step, so the gradient is the same for any split into
micro-batches, accumulation steps and processes. A term without a label in the batch is an exact zero that
still hangs on the graph.

Terms: `language` (next token; inside argument values and in answers to a function's result through the
pointer-generator mixture), `contrastive` (sigmoid loss over image-text pairs), `trigger`,
`selection` (among the functions listed), `retrieval` (among those of all hidden examples of the micro-batch),
`presence`, `copy_gate`, `copy_span`, `bag_of_words` (a caption's words from visual tokens, among
those of all captions of the micro-batch).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_ai.data.packing import IGNORED, Batch
from multimodal_ai.models.function_head import continuation, copied_ids
from multimodal_ai.models.multimodal_model import ModelOutput, MultimodalModel
from multimodal_ai.training.cross_entropy import token_losses

TERMS = (
    "language",
    "contrastive",
    "bag_of_words",
    "trigger",
    "selection",
    "retrieval",
    "presence",
    "copy_gate",
    "copy_span",
)
DEFAULT_WEIGHTS = {
    "language": 1.0,
    "contrastive": 1.0,
    "trigger": 0.5,
    "selection": 0.5,
    "retrieval": 0.5,
    "presence": 0.3,
    "copy_gate": 0.3,
    "copy_span": 0.2,
    "bag_of_words": 0.0,
}


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each row with the distributions `target`; 0 for a row of zeros."""
    # where() keeps the -inf of absent functions out of the product and of its gradient
    log_probability = F.log_softmax(logits, dim=-1)
    return -(target * torch.where(target > 0, log_probability, torch.zeros_like(log_probability))).sum(-1)


class TrainingObjective(nn.Module):
    """The model with its losses. `weights` maps terms to loss weights; a term left out weighs 0.

    With the names of the mix's `sources`, `source_sums` tells after each forward pass which of them a loss
    came from: float32[terms, sources, 2], sum and count, without a gradient.
    """

    def __init__(
        self, model: MultimodalModel, weights: dict[str, float] | None = None, sources: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.model, self.sources = model, tuple(sources)
        self.source_sums = torch.zeros(0)
        self.weights = dict(DEFAULT_WEIGHTS if weights is None else weights)
        unknown = sorted(set(self.weights) - set(TERMS))
        if unknown:
            raise ValueError(f"losses: unknown term {unknown[0]!r}; allowed: {', '.join(TERMS)}")

    @staticmethod
    def counts(batch: Batch) -> dict[str, float]:
        """What each term's sum is divided by, from the batch alone."""
        value = (batch.value >= 0) & (batch.labels != IGNORED)
        return {
            "language": float(batch.label_weight.sum()),
            "contrastive": float(len(batch.pair_image)),
            "trigger": float((batch.trigger >= 0).sum()),
            "selection": float((batch.selection.sum(1) > 0).sum()),
            "retrieval": float((batch.retrieval.sum(1) > 0).sum()),
            "presence": float((batch.presence >= 0).sum()),
            "copy_gate": float(value.sum()),
            "copy_span": float((value & (batch.copy >= 0)).sum()),
            "bag_of_words": float(len(batch.pair_image)),
        }

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """float32 scalar sums, one for each of TERMS."""
        out: ModelOutput = self.model(batch)
        self.source_sums = torch.zeros(len(self.weights), len(self.sources), 2, device=batch.labels.device)
        language, gate, span = self._language(out, batch)
        scores = out.scores
        # a path to everything, for a stage that trains one term alone: what a batch leaves idle hangs on the trigger
        zero = (language + scores.trigger.float().sum()) * 0.0
        rows = torch.arange(len(batch.trigger), device=batch.trigger.device)
        each = F.cross_entropy(scores.trigger, batch.trigger, ignore_index=-1, reduction="none")
        trigger = self._sum("trigger", batch, rows, each, batch.trigger >= 0)
        each = _cross_entropy(scores.selection, batch.selection)
        selection = self._sum("selection", batch, rows, each, batch.selection.sum(1) > 0)
        labelled = batch.presence_place
        each = F.binary_cross_entropy_with_logits(
            scores.presence.flatten()[labelled], batch.presence.flatten()[labelled].float(), reduction="none"
        )
        functions, parameters = batch.presence.shape[1:]
        rows = labelled // max(functions * parameters, 1)
        presence = self._sum("presence", batch, rows, each, torch.ones_like(each))
        contrastive = self._contrastive(out, batch)
        words, retrieval = self._bag_of_words(out, batch), self._retrieval(out, batch)
        terms = (language, contrastive, words, trigger, selection, retrieval, presence, gate, span)
        return {name: term.float() + zero for name, term in zip(TERMS, terms, strict=True)}

    def _sum(self, term: str, batch: Batch, rows: Tensor, losses: Tensor, counts: Tensor) -> Tensor:
        """The sum of a term's losses, noted by source. rows: int[n], of the batch; losses, counts: [n]."""
        if self.sources and term in self.weights:
            noted = torch.stack((losses.detach().float(), counts.float()), 1)
            self.source_sums[list(self.weights).index(term)].index_add_(0, batch.data_source[rows], noted)
        return losses.sum()

    def _language(self, out: ModelOutput, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted next-token loss, and the supervision of gate and pointer inside argument values.

        Logits are made only where there is a loss. Inside a value, and in text that answers a function's
        result, the probability of the next token is (1 - g) * generate + g * the attention on source tokens
        whose copy begins with this token. In text the mixture alone teaches gate and pointer.
        """
        model, head = self.model, self.model.head
        T = batch.labels.shape[1]
        here, real = batch.label_place, batch.label_real  # positions with a label
        rows = here // T
        labels, weight = batch.labels.flatten()[here].clamp(min=0), batch.label_weight.flatten()[here] * real
        states = out.decoder_states.flatten(0, 1)[here]
        embedding = model.embedding.weight.to(states.dtype)
        nll = token_losses(states * model.logit_scale, embedding, labels)
        value = batch.value.flatten()[here].masked_fill(~real, -1)
        inside, real = batch.copy_place, batch.copy_real  # those where the pointer may copy
        row, value, token = rows[inside], value[inside], labels[inside]
        filling = real & (value >= 0)  # and there those inside the value of an argument
        value = value.clamp(min=0)
        P = batch.required.shape[-1]
        if out.parameters is None or out.context.card_index is None:
            dummy = (head.copy_gate.weight.sum() + head.copy_query.weight.sum()) * 0.0
            dummy = dummy + (head.copy_parameter.weight.sum() + head.copy_key.weight.sum()) * 0.0
            dummy = dummy + head.continue_scale.sum() * 0.0
            return self._sum("language", batch, rows, nll * weight, weight) + dummy, dummy, dummy
        card = out.context.card_index[row, value // P].clamp(min=0)
        keys = head.copy_key(out.context.states)
        copyable = batch.copyable[row]
        parameter = out.parameters[card, value % P] * filling[:, None]
        place = here[inside]
        continues = continuation(batch.source_ids[row], batch.written.flatten(0, 1)[place])
        gate, attention = head.copy_scores(states[inside], parameter, keys[row], copyable, continues)
        last = batch.target_ids.flatten()[place]
        ids = copied_ids(batch.source_ids[row], batch.source_space[row], continues, last, batch.space)
        same = (ids == token[:, None]) & copyable
        floor = torch.finfo(torch.float32).min
        copied = torch.logsumexp(attention.masked_fill(~same, floor), dim=-1)
        mixture = torch.logaddexp(F.logsigmoid(-gate) - nll[inside], F.logsigmoid(gate) + copied)
        # there the mixture takes the place of the plain loss
        language = self._sum("language", batch, rows, nll * weight, weight)
        change = (-mixture - nll[inside]) * weight[inside] * real
        language = language + self._sum("language", batch, row, change, torch.zeros_like(change))
        where = batch.copy.flatten()[here][inside]
        gate_loss = F.binary_cross_entropy_with_logits(gate, (where >= 0).float(), reduction="none")
        gate_loss = self._sum("copy_gate", batch, row, gate_loss * (copyable.any(1) & filling), filling)
        pointed = attention.gather(1, where.clamp(min=0)[:, None]).squeeze(1)
        copied_whole = (where >= 0) & filling
        span_loss = self._sum("copy_span", batch, row, -(pointed * copied_whole), copied_whole)
        return language, gate_loss, span_loss

    def _retrieval(self, out: ModelOutput, batch: Batch) -> Tensor:
        """InfoNCE over the cards of all hidden examples of the micro-batch (van den Oord et al., arXiv 1807.03748),
        summed over these examples.
        """
        rows, head = batch.retrieval_row, self.model.head
        scores = head.match(out.scores.state[rows], head.card_keys(out.pooled_texts), batch.retrieval_lexical[rows])
        each = _cross_entropy(scores.masked_fill(~batch.retrieval_candidates, float("-inf")), batch.retrieval[rows])
        return self._sum("retrieval", batch, rows, each, torch.ones_like(each))

    def _contrastive(self, out: ModelOutput, batch: Batch) -> Tensor:
        """Sigmoid loss over all pairs of the micro-batch (SigLIP, arXiv 2303.15343), summed over images and
        divided by the number of texts, so that it counts pairs. Equal texts or images are positives.
        """
        model = self.model
        logits = out.image_embeddings @ out.text_embeddings.T * model.contrastive_scale.exp() + model.contrastive_bias
        together = batch.pair_text[:, None] == batch.pair_text[None]
        together = together | (batch.pair_image[:, None] == batch.pair_image[None])
        sign = together.float() * 2 - 1
        each = -F.logsigmoid(sign * logits).sum(1)
        return self._sum("contrastive", batch, batch.pair_row, each, torch.ones_like(each))

    def _bag_of_words(self, out: ModelOutput, batch: Batch) -> Tensor:
        """Cross-entropy of a caption's words, each as likely, under the image's visual tokens, over the words of all
        captions of the micro-batch; summed over the pairs (as SuperClass does with a vision encoder, arXiv
        2411.03313). Any token of the image may say a word.

        The words are those of the shared embedding, so that what an image shows comes to lie where the text
        encoder has the word for it.
        """
        visual, captions, words = out.visual, batch.text_ids[batch.pair_text], batch.words
        if not len(words):
            return visual.tokens.sum() * 0.0
        states = F.layer_norm(visual.tokens, visual.tokens.shape[-1:])
        embedding = self.model.embedding(words).to(states.dtype)
        logits = F.linear(states * self.model.logit_scale, embedding).float()  # [C, M, W]
        logits = logits.masked_fill(~visual.valid[..., None], torch.finfo(torch.float32).min)
        said = (captions[..., None] == words).any(1).float()  # [C, W]
        each = _cross_entropy(logits.logsumexp(1), said / said.sum(1, keepdim=True).clamp(min=1))
        return self._sum("bag_of_words", batch, batch.pair_row, each, torch.ones_like(each))
