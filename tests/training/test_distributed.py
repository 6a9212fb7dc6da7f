from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from toy import run_processes, toy_config, write_shard_sizes

from multimodal_ai.training import distributed
from multimodal_ai.training.distributed import resolve_precision, start_accelerator


@pytest.mark.parametrize("strategy", ["fsdp2", "hsdp"])
def test_parameters_and_optimizer_state_are_really_sharded(tmp_path: Path, strategy: str):
    run_processes(2, tmp_path, write_shard_sizes, toy_config(tmp_path / "run", strategy=strategy), str(tmp_path))
    first, second = (json.loads((tmp_path / f"report_{rank}.json").read_text()) for rank in range(2))
    for name, (here, whole, sharded) in first["sizes"].items():
        if name == "model.scale":
            assert not sharded  # a scalar cannot be
            continue
        assert sharded and here < whole and here + second["sizes"][name][0] == whole, name
    assert first["states_sharded"] and second["states_sharded"]
    assert "was not sharded" in first["broken"]  # a strategy that quietly does nothing is noticed


def test_auto_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch):
    for native, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(distributed, "multiplies_bf16", lambda device, native=native: native)
        assert resolve_precision("auto", torch.device("cpu")) == expected
        assert resolve_precision("fp32", torch.device("cpu")) == "fp32"


def test_processes_that_do_not_find_each_other_are_an_error(monkeypatch: pytest.MonkeyPatch):
    start_accelerator("fp32")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RuntimeError, match="4 processes were launched, but 1 found each other"):
        start_accelerator("fp32")


def test_stages_of_one_process_may_differ_in_precision():
    assert start_accelerator("fp32").mixed_precision == "no"
    assert start_accelerator("bf16").mixed_precision == "bf16"
