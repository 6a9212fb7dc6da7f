from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toy import ToyConfig, ToyModel

from multimodal_ai.training.config import OptimizerConfig, PartConfig, ScheduleConfig
from multimodal_ai.training.optimizer import (
    LearningRates,
    MuonAdamW,
    build_optimizer,
    freeze,
    orthogonalise,
    parameter_plan,
    schedule_factor,
    set_learning_rate,
)

ADAMW, MUON = OptimizerConfig(name="adamw", lr=0.1), OptimizerConfig(name="muon", lr=0.1, muon_lr=0.3)


def with_gradients(model: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_muon_takes_linear_layers_outside_the_head_and_nothing_else():
    plan = parameter_plan(ToyModel(ToyConfig()), {}, MUON)
    muon = {name for name, entry in plan.items() if entry.muon}
    assert muon == {
        f"{block}.{part}.weight" for block in ("vision.1", "text.0", "text.1") for part in ("up", "down")
    } | {"vision.0.weight"}
    assert not any(entry.muon for entry in parameter_plan(ToyModel(ToyConfig()), {}, ADAMW).values())


def test_only_matrices_decay_and_not_embeddings():
    plan = parameter_plan(ToyModel(ToyConfig()), {}, ADAMW)
    assert plan["head.weight"].decay and plan["text.0.up.weight"].decay
    for name in ("embedding.weight", "text.0.norm.weight", "head.bias", "scale"):
        assert not plan[name].decay


def test_every_trainable_parameter_is_in_exactly_one_group_with_its_rate():
    model = ToyModel(ToyConfig())
    plan = parameter_plan(model, {"vision": PartConfig(lr_scale=0.5), "text.0.*": PartConfig(lr_scale=2)}, MUON)
    optimizer = build_optimizer(model, plan, MUON)
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rate[id(model.vision[1].up.weight)] == pytest.approx(0.15)
    assert rate[id(model.text[0].up.weight)] == pytest.approx(0.6)
    assert rate[id(model.text[0].norm.weight)] == pytest.approx(0.2)
    assert rate[id(model.head.weight)] == pytest.approx(0.1)


def test_the_last_matching_rule_wins():
    rules = {"text": PartConfig(trainable=False), "text.1.*": PartConfig()}
    plan = parameter_plan(ToyModel(ToyConfig()), rules, ADAMW)
    assert not plan["text.0.up.weight"].trainable and plan["text.1.up.weight"].trainable


def test_a_frozen_parameter_is_in_no_group():
    model = ToyModel(ToyConfig())
    plan = parameter_plan(model, {"text": PartConfig(trainable=False)}, MUON)
    freeze(model, plan)
    grouped = {id(p) for group in build_optimizer(model, plan, MUON).param_groups for p in group["params"]}
    assert grouped.isdisjoint(id(p) for p in model.text.parameters())
    assert not any(p.requires_grad for p in model.text.parameters())


def test_freezing_everything_is_an_error():
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_plan(ToyModel(ToyConfig()), {"*": PartConfig(trainable=False)}, ADAMW)


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (64, 64)])
def test_orthogonalise_brings_singular_values_near_one_and_keeps_the_directions(shape: tuple[int, int]):
    matrix = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalise(matrix)[0].float()
    u, _, v = torch.linalg.svd(matrix[0], full_matrices=False)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3 and values.max() < 1.5
    inside = u.T @ result @ v.T  # diagonal where the directions are those of the matrix
    assert (inside - inside.diag().diag()).norm() < 0.05 * inside.norm()


def test_muon_agrees_with_torchs(monkeypatch: pytest.MonkeyPatch):
    torchs = (3.4445, -4.7750, 2.0315)  # torch takes the same polynomial five times
    monkeypatch.setattr("multimodal_ai.training.optimizer.NEWTON_SCHULZ", (torchs,) * 5)
    torch.manual_seed(0)
    ours, theirs = [nn.Parameter(torch.randn(24, 48)), nn.Parameter(torch.randn(48, 24))], []
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    group = {"params": ours, "muon": True, "lr": 0.02, "weight_decay": 0.1}
    optimizer = MuonAdamW([group])
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    start = [p.detach().clone() for p in ours]
    for step in range(5):
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(10 * step + number))
            b.grad = a.grad.clone()
        optimizer.step()
        reference.step()
    for a, b, s in zip(ours, theirs, start, strict=True):
        assert (a - b).norm() < 0.02 * (b - s).norm()  # they differ by BF16 rounding at most


def test_the_rest_is_exactly_torchs_adamw():
    torch.manual_seed(0)
    model = ToyModel(ToyConfig())
    twin = copy.deepcopy(model)
    optimizer = build_optimizer(model, parameter_plan(model, {}, ADAMW), ADAMW)
    plan = parameter_plan(twin, {}, ADAMW)
    named = list(twin.named_parameters())
    groups = [
        {"params": [p for name, p in named if plan[name].decay == decay], "weight_decay": 0.1 if decay else 0.0}
        for decay in (True, False)
    ]
    reference = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.95), eps=1e-8, fused=True)
    for step in range(3):
        with_gradients(model, step)
        with_gradients(twin, step)
        optimizer.step()
        reference.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_dict_round_trip_continues_exactly():
    torch.manual_seed(0)
    model = ToyModel(ToyConfig())
    optimizer = build_optimizer(model, parameter_plan(model, {}, MUON), MUON)
    with_gradients(model, 1)
    optimizer.step()
    twin = copy.deepcopy(model)
    other = build_optimizer(twin, parameter_plan(twin, {}, MUON), MUON)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, opt in ((model, optimizer), (twin, other)):
        with_gradients(each, 2)
        opt.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_parameter_without_gradient_has_no_state():
    model = ToyModel(ToyConfig())
    optimizer = build_optimizer(model, parameter_plan(model, {}, MUON), MUON)
    with_gradients(model)
    model.never.grad = model.text[0].up.weight.grad = None
    optimizer.step()
    assert not optimizer.state.get(model.never) and not optimizer.state.get(model.text[0].up.weight)
    assert optimizer.state[model.head.weight] and optimizer.state[model.text[1].up.weight]


@given(st.integers(1, 400), st.floats(0.01, 0.4), st.floats(0.01, 0.5))
def test_the_schedule_rises_stays_and_falls(steps: int, warmup: float, decay: float):
    schedule = ScheduleConfig(steps=steps, warmup=warmup, decay=decay)
    factors = [schedule_factor(schedule, step, steps) for step in range(steps)]
    up, down = round(warmup * steps), round(decay * steps)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:up] == sorted(factors[:up])
    assert all(factor == 1 for factor in factors[up : steps - down])
    assert factors[steps - down :] == sorted(factors[steps - down :], reverse=True)
    assert schedule_factor(schedule, steps, steps) == (0 if down else 1) or not down


def test_warmup_stable_decay_by_numbers():
    schedule = ScheduleConfig(steps=10, warmup=3, decay=4)
    factors = [schedule_factor(schedule, step, 10) for step in range(11)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0])


def test_learning_rates_keep_their_ratio():
    model = ToyModel(ToyConfig())
    optimizer = build_optimizer(model, parameter_plan(model, {"head": PartConfig(lr_scale=0.1)}, MUON), MUON)
    set_learning_rate(optimizer, 0.5)
    assert {round(group["lr"], 9) for group in optimizer.param_groups} == {0.005, 0.05, 0.15}
    parts = {"text": model.text, "head": model.head, "embedding": model.embedding}
    rates = LearningRates(optimizer, [(name, p) for name, part in parts.items() for p in part.parameters()])
    assert rates.by_part() == pytest.approx(
        {"text": 0.15, "head": 0.005, "embedding": 0.05}
    )  # Muon's, where it has one
