"""The same step gives the same gradient for any micro-batch size and number of processes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.conftest import build_model
from torch import Tensor

from multimodal_ai.data.examples import build_example, hide_functions
from multimodal_ai.data.messages import Sample
from multimodal_ai.data.packing import IN_TEXT, collate
from multimodal_ai.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from multimodal_ai.training.losses import TERMS, TrainingObjective

# Their negatives come from the micro-batch, so these terms are left out; docs/training.md says so.
SPLIT_FREE = {term: 1.0 for term in TERMS if term not in ("contrastive", "retrieval", "bag_of_words")}


def gradient(tokenizer: Tokenizer, make: Any, micro_size: int, world: int) -> dict[str, Tensor]:
    """The gradient of step 0 as the trainer makes it: sums over micro-batches and ranks by global counts."""
    objective = TrainingObjective(build_model(tokenizer), SPLIT_FREE)
    parts = []
    for rank in range(world):
        data = make(16, micro_size, rank, world)
        parts += [data[number] for number in range(data.accumulation)]
    counts = {term: sum(objective.counts(batch)[term] for batch in parts) for term in SPLIT_FREE}
    for batch in parts:
        sums = objective(batch)
        sum(sums[term] / counts[term] for term in SPLIT_FREE if counts[term]).backward()  # type: ignore[union-attr]
    return {name: p.grad for name, p in objective.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("micro_size, world", [(4, 1), (16, 1), (4, 2), (2, 4)])
def test_micro_batches_and_ranks(micro_size: int, world: int, small_tokenizer: Tokenizer, micro_batches: Any) -> None:
    expected = gradient(small_tokenizer, micro_batches, 8, 1)
    found = gradient(small_tokenizer, micro_batches, micro_size, world)
    for name in expected.keys() | found.keys():
        some = expected.get(name, found.get(name))
        assert some is not None
        pair = [gradients.get(name, torch.zeros_like(some)) for gradients in (found, expected)]
        torch.testing.assert_close(*pair, rtol=2e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert any(value.abs().sum() > 0 for value in expected.values())


def test_the_samples_of_a_step_are_the_same_for_any_world(micro_batches: Any) -> None:
    def origins(world: int, micro_size: int) -> list[str]:
        ranks = [micro_batches(16, micro_size, rank, world) for rank in range(world)]
        return sorted(o for data in ranks for number in range(data.accumulation) for o in data[number].origins)

    assert origins(1, 16) == origins(1, 4) == origins(2, 4) == origins(4, 2)


def test_losses_by_source_add_up_to_the_losses(micro_batches: Any, small_tokenizer: Tokenizer) -> None:
    """Sums and counts of every term, of all sources together, are those that the step is made of."""
    sources = ("digits", "function_cards", "easy_vqa", "stdlib_text")
    weights = dict.fromkeys(TERMS, 1.0)
    plain = TrainingObjective(build_model(small_tokenizer), weights)
    told = TrainingObjective(build_model(small_tokenizer), weights, sources)
    seen = torch.zeros(len(TERMS), len(sources))
    for number in range(3):
        batch = micro_batches(8, 8)[number]
        sums = told(batch)
        assert all(torch.equal(value, sums[term]) for term, value in plain(batch).items())
        assert not told.source_sums.requires_grad
        for term, (losses, counts) in zip(TERMS, told.source_sums.transpose(1, 2), strict=True):
            torch.testing.assert_close(losses.sum(), sums[term].detach(), rtol=1e-4, atol=1e-4, msg=term)
            assert float(counts.sum()) == pytest.approx(told.counts(batch)[term], rel=1e-5), term
        seen += told.source_sums[..., 1]
        names = [sources[number] for number in batch.data_source.tolist()]
        files = {"train.parquet"}
        assert len(names) == 8 and {origin.split()[-1] for origin in batch.origins} == files
    language, selection = seen[TERMS.index("language")], seen[TERMS.index("selection")]
    assert (language > 0).all() and selection[sources.index("stdlib_text")] == 0


def test_a_global_size_that_does_not_divide_is_refused(micro_batches: Any) -> None:
    with pytest.raises(ValueError, match="the next that does is 18"):
        micro_batches(16, 3, 0, 2)


def test_an_answer_to_a_result_teaches_the_pointer(small_tokenizer: Tokenizer, micro_batches: Any) -> None:
    data = micro_batches(8, 8)
    source = next(source for source in data.sources if source.name == "digits")
    samples = (source.sample(index) for index in range(len(source)))
    sample = next(s for s in samples if s.messages[-2].role == "tool" and not s.messages[-1].tool_calls)
    batch = collate(
        [build_example(sample, data.renderer, data.images[0])],
        3 * data.config.image.patch_size**2,
        data.renderer.tokenizer.space,
    )
    assert (batch.value == IN_TEXT).any() and TrainingObjective.counts(batch)["copy_gate"] == 0
    objective = TrainingObjective(build_model(small_tokenizer), {"language": 1.0})
    objective(batch)["language"].backward()
    for parameter in (objective.model.head.copy_gate.weight, objective.model.head.copy_key.weight):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


def test_the_words_of_a_caption_are_learned_from_its_image(small_tokenizer: Tokenizer, micro_batches: Any) -> None:
    objective = TrainingObjective(build_model(small_tokenizer), {"bag_of_words": 1.0})
    batch = next(b for number in range(8) if len((b := micro_batches(16, 16)[number]).pair_image) > 1)
    assert TrainingObjective.counts(batch)["bag_of_words"] == len(batch.pair_image)
    objective(batch)["bag_of_words"].backward()
    model = objective.model
    for part in (model.vision, model.fusion):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in part.named_parameters() if "pool" not in n)
    assert not sum(p.grad.abs().sum() for p in model.decoder.parameters() if p.grad is not None)
    with torch.no_grad():  # an image whose tokens are the words' own embeddings says just these
        words = sorted({t for t in batch.text_ids[batch.pair_text[0]].tolist() if t >= len(SPECIAL_TOKENS)})
        out = model(batch)
        before = objective._bag_of_words(out, batch)
        model.embedding.weight.copy_(F.layer_norm(torch.randn_like(model.embedding.weight), (32,)))
        out.visual.tokens[0, : len(words)] = model.embedding.weight[words]
        out.visual.valid[0] = torch.arange(out.visual.valid.shape[1]) < len(words)
        batch.pair_text, batch.words = batch.pair_text[:1], torch.tensor(words)
        out.visual.tokens, out.visual.valid = out.visual.tokens[:1], out.visual.valid[:1]
        best = objective._bag_of_words(out, batch)
        assert best < before / 2 and abs(float(best) - math.log(len(words))) < 0.2


def test_padding_of_an_image_says_nothing(small_tokenizer: Tokenizer, micro_batches: Any) -> None:
    objective = TrainingObjective(build_model(small_tokenizer))
    batch = next(b for number in range(8) if len((b := micro_batches(16, 16)[number]).pair_image) > 1)
    with torch.no_grad():
        out = objective.model(batch)
        assert not out.visual.valid.all()
        before = objective._bag_of_words(out, batch)
        out.visual.tokens[~out.visual.valid] += 5
        assert torch.equal(objective._bag_of_words(out, batch), before)


def test_a_batch_of_functions_without_parameters(small_tokenizer: Tokenizer, micro_batches: Any) -> None:
    data = micro_batches(8, 8)
    tool = {"type": "function", "function": {"name": "lights_off", "parameters": {"type": "object", "properties": {}}}}
    call = {"type": "function", "function": {"name": "lights_off", "arguments": {}}}
    messages = [{"role": "user", "content": "it is too bright"}, {"role": "assistant", "tool_calls": [call]}]
    sample = Sample.from_row({"messages": messages, "tools": [tool], "trigger": "call"}, "the row")
    batch = collate([build_example(sample, data.renderer, data.images[0])], 3 * 8**2, data.renderer.tokenizer.space)
    losses = TrainingObjective(build_model(small_tokenizer), SPLIT_FREE)(batch)
    assert losses["selection"] > 0 and losses["presence"] == 0


def test_hidden_functions_are_found_among_those_of_the_whole_batch(
    small_tokenizer: Tokenizer, micro_batches: Any
) -> None:
    data = micro_batches(8, 8)
    source = next(source for source in data.sources if source.name == "function_cards")
    calling = [s for s in map(source.sample, range(len(source))) if s.messages[-1].tool_calls]
    shown, *rest = (build_example(sample, data.renderer, data.images[0]) for sample in calling[:6])
    hidden = [hide_functions(example) for example in rest]
    space = data.renderer.tokenizer.space
    batch = collate([shown, *hidden], 3 * data.config.image.patch_size**2, space, multiple=8)
    count = TrainingObjective.counts(batch)
    assert count["retrieval"] == 5 and count["trigger"] == count["selection"] == 1
    assert (batch.card_index[1:] == -1).all() and (batch.labels[1:] < 0).all()
    keys = {card.key for example in hidden for card in example.cards}
    assert int(batch.retrieval_candidates.sum()) == len(keys) > 5
    objective = TrainingObjective(build_model(small_tokenizer), {"retrieval": 1.0})
    head = objective.model.head
    found = objective(batch)["retrieval"]
    out = objective.model(batch)
    scores = head.match(out.scores.state, head.card_keys(out.pooled_texts), batch.retrieval_lexical)
    chances = scores[:, batch.retrieval_candidates].softmax(-1).log()
    expected = -(batch.retrieval[:, batch.retrieval_candidates] * chances)[1:].sum()
    torch.testing.assert_close(found, expected)
    found.backward()
    for parameter in (head.selection_query.weight, head.selection_key.weight, head.lexical_scale):
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0
