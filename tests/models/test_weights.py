"""Weights on disk: what is read is what was stored, within the error that the storage has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_ai.models import MultimodalModel
from multimodal_ai.models.weights import SMALLEST, load_weights, quantised, save_weights

CPU = torch.device("cpu")


@given(st.integers(0, 2**32 - 1), st.floats(-8, 8), st.integers(1, 40), st.integers(1, 70))
def test_eight_bits_err_by_half_a_step_of_the_row(seed: int, size: float, rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator) * 10**size
    matrix[0] = 0
    steps, scale = quantised(matrix)
    assert steps.dtype == torch.int8 and scale.shape == (rows, 1)
    assert ((steps * scale - matrix).abs() <= scale * 0.5001).all()
    again, same = quantised(steps * scale)
    assert torch.equal(again, steps)
    torch.testing.assert_close(same, scale)


@pytest.mark.parametrize(("storage", "share"), [("float32", 1.0), ("bfloat16", 0.5), ("int8", 0.25)])
@torch.inference_mode()
def test_a_model_is_stored_small_and_computes_nearly_the_same(
    small_model: MultimodalModel, micro_batches: object, tmp_path: Path, storage: str, share: float
) -> None:
    batch = micro_batches(8, 8)[0]  # type: ignore[operator]
    small_model.save_pretrained(tmp_path / "full")
    small_model.save_pretrained(tmp_path / "a", storage)  # type: ignore[arg-type]
    loaded = MultimodalModel.from_pretrained(tmp_path / "a")
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    expected, got = small_model(batch).decoder_states, loaded(batch).decoder_states
    torch.testing.assert_close(got, expected, rtol=0, atol={1.0: 0, 0.5: 0.1, 0.25: 0.15}[share])
    size, full = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("a", "full"))
    assert size <= full * (share + 0.2)
    loaded.save_pretrained(tmp_path / "b", storage)  # type: ignore[arg-type]
    again = MultimodalModel.from_pretrained(tmp_path / "b").state_dict()
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(again[name], value, rtol=1e-6, atol=0)


def test_small_matrices_and_vectors_keep_their_bits(tmp_path: Path) -> None:
    state = {"small": torch.randn(4, SMALLEST // 4 - 1), "vector": torch.randn(2 * SMALLEST), "count": torch.tensor(3)}
    save_weights(state, tmp_path / "w.safetensors", "int8")
    loaded = load_weights(tmp_path / "w.safetensors", CPU)
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


@settings(max_examples=5)
@given(st.sampled_from([float("nan"), float("inf")]))
def test_what_is_not_finite_is_not_packed(value: float) -> None:
    state = {"w": torch.full((64, 64), value)}
    with pytest.raises(ValueError, match="w holds NaN or infinite"):
        save_weights(state, Path("never-written.safetensors"), "int8")
    assert not Path("never-written.safetensors").exists()


def test_an_unknown_storage_is_an_error_that_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="as int4; there are float32, bfloat16, int8"):
        save_weights({}, tmp_path / "w", "int4")  # type: ignore[arg-type]
