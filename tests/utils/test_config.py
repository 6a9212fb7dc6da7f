"""Configuration: what is read, what is refused, and what the errors tell."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from multimodal_ai.utils.config import ConfigError, ConfigModel, dump_config, load_config, parse_config
from multimodal_ai.utils.config_reference import config_reference


class OptimizerConfig(ConfigModel):
    """How weights move."""

    lr: float = Field(1e-3, gt=0, description="learning rate | of AdamW")
    betas: tuple[float, float] = (0.9, 0.95)
    kind: Literal["adamw", "muon"] = "adamw"


class PartConfig(ConfigModel):
    width: int = 8
    name: str | None = None


class JobConfig(ConfigModel):
    model: PartConfig | Path = PartConfig(width=16)
    optimizer: OptimizerConfig = OptimizerConfig(lr=0.5)
    mix: list[PartConfig] = Field(default_factory=list)
    rules: dict[str, OptimizerConfig] = Field(default_factory=dict)
    steps: int

    @model_validator(mode="after")
    def _check(self) -> JobConfig:
        if self.steps == 13:
            raise ValueError("13 steps bring bad luck; use 14")
        return self


def read(tmp_path: Path, text: str, *overrides: str) -> JobConfig:
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(JobConfig, path, overrides)


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, *overrides)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_an_unknown_key_names_file_path_allowed_and_nearest(tmp_path: Path) -> None:
    assert refusal(tmp_path, "steps: 1\noptimizer: {lrr: 1}") == (
        'job.yaml: optimizer.lrr: unknown key; allowed: lr, betas, kind; did you mean "lr"?'
    )


def test_every_mistake_is_told_not_only_the_first(tmp_path: Path) -> None:
    message = refusal(tmp_path, "optimizer: {kind: adam, lr: high}\nmix: [{}, {width: wide}]")
    assert 'optimizer.kind: "adam" is not allowed; allowed: adamw, muon; did you mean "adamw"?' in message
    assert 'optimizer.lr: expected float, got "high"' in message
    assert 'mix.1.width: expected int, got "wide"' in message
    assert "steps: is required and missing; expected int" in message
    assert len(message.splitlines()) == 4


def test_limits_and_own_checks_are_told_in_words(tmp_path: Path) -> None:
    assert "optimizer.lr: expected greater than 0, got -1" in refusal(tmp_path, "steps: 1\noptimizer: {lr: -1}")
    assert refusal(tmp_path, "steps: 13") == "job.yaml: 13 steps bring bad luck; use 14"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps: 1\nsteps: 2", 'job.yaml, line 2, column 1: not valid YAML: key "steps" is given twice'),
        ("- 1", "job.yaml: expected a mapping of keys to values, got [1]"),
        ("steps: [1", "not valid YAML"),
        ("steps: 1\nmodel: 3", "model: expected PartConfig or path, got 3"),
        (
            "steps: 1\nmodel: {widht: 3}",
            'model.widht: unknown key; allowed: width, name; did you mean "width"?',
        ),
        ("steps: 1\nrules: {a: {lr: x}}", 'rules.a.lr: expected float, got "x"'),
        ("steps: 1.5", "steps: expected int, got 1.5"),
        ("steps: .nan", "steps: expected int, got nan"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text("steps: 1")
    with pytest.raises(ConfigError, match=r'tinny\.yaml: no such file; did you mean "tiny\.yaml"\?'):
        load_config(JobConfig, tmp_path / "tinny.yaml")
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(JobConfig, tmp_path / "nowhere" / "tiny.yaml")


def test_overrides_take_yaml_values_and_keep_the_siblings(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "steps: 1\nmix: [{width: 1}, {width: 2}]",
        "optimizer.betas=[0.5, 6e-1]",
        "mix.1.width=7",
        'rules."text.blocks".lr=2e-4',
        "rules.head={kind: muon}",
        "model.name=1e-3x",
        "steps=5",
    )
    assert config.optimizer == OptimizerConfig(lr=0.5, betas=(0.5, 0.6))  # the field's default lr stays
    assert [part.width for part in config.mix] == [1, 7]
    assert config.rules == {"text.blocks": OptimizerConfig(lr=2e-4), "head": OptimizerConfig(kind="muon")}
    assert config.model == PartConfig(width=16, name="1e-3x")
    assert config.steps == 5


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.lrr=1", "--set optimizer.lrr=1: optimizer.lrr: unknown key; allowed: lr"),
        ("optimiser.lr=1", "optimiser: unknown key; allowed: model, optimizer"),
        ("optimizer.lr=high", '--set optimizer.lr=high: optimizer.lr: expected float, got "high"'),
        ("mix.3.width=1", "mix.3: expected an item number"),
        ("steps.more=1", "steps.more: unknown key; steps is 1 and has no keys"),
        ("steps", "expected key=value"),
        ("=3", "expected key=value"),
        ("steps=[1", "not valid YAML"),
    ],
)
def test_bad_overrides(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in refusal(tmp_path, "steps: 1\nmix: [{width: 1}]", override)


def test_an_override_below_the_path_of_a_file_says_so(tmp_path: Path) -> None:
    message = refusal(tmp_path, "steps: 1\nmodel: tiny.yaml", "model.width=3")
    assert 'model is "tiny.yaml" (the path of a file: set it there)' in message


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "0.001", "+1e-3", ".1e-2"])
def test_numbers_with_an_exponent_are_numbers(text: str) -> None:
    assert parse_config(OptimizerConfig, {}, [f"lr={text}"]).lr == pytest.approx(1e-3)


@settings(deadline=None)
@given(
    lr=st.floats(1e-12, 1e6),
    betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    name=st.none() | st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"))),
    rules=st.dictionaries(st.text('ab.="x1', min_size=1, max_size=5), st.just(OptimizerConfig()), max_size=3),
)
def test_what_is_written_is_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory,
    lr: float,
    betas: tuple[float, float],
    name: str | None,
    rules: dict[str, OptimizerConfig],
) -> None:
    config = JobConfig(model=PartConfig(name=name), optimizer=OptimizerConfig(lr=lr, betas=betas), rules=rules, steps=1)
    path = tmp_path_factory.mktemp("config") / "job.yaml"
    dump_config(config, path)
    assert load_config(JobConfig, path) == config
    assert [entry.name for entry in path.parent.iterdir()] == ["job.yaml"]


def test_the_loader_reads_what_plain_yaml_reads() -> None:
    text = "a: [1, 1.5, yes, null, 0x10, 2024-01-02, '1e-3', a.b, 1_000, .5, -3]"
    from multimodal_ai.utils.config import _parse_yaml

    assert _parse_yaml(text, "x") == yaml.safe_load(text)


def test_the_reference_names_every_key_once() -> None:
    page = config_reference([JobConfig])
    assert page.count("\n## ") == 3
    assert "| `lr` | float, > 0 | `0.001` | learning rate \\| of AdamW |" in page
    assert '| `kind` | "adamw" or "muon" | `"adamw"` |' in page
    assert "| `steps` | int | required |" in page
    assert '| `optimizer` | [OptimizerConfig](#optimizerconfig) | `{"lr": 0.5}` |' in page
    assert "How weights move." in page
