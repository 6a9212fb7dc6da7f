"""Step time of Muon: torch.optim.Muon (always BF16) against the optimizer of this project.

    python benchmarks/muon.py [--matrices 30] [--rows 256] [--columns 768] [--threads 2]
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/muon.py          # as on a CPU without AVX-512
    ONEDNN_MAX_CPU_ISA=AVX512_CORE python benchmarks/muon.py   # with AVX-512 but without BF16

Takes seconds; minutes for torch's under AVX2. Under a limited instruction set the project's optimizer is
told so by --no-bf16, since the CPU itself still says that it has BF16.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import nn

from multimodal_ai.training import optimizer as ours


def median_ms(step: Callable[[], object], repeats: int) -> float:
    """Median time of a step in milliseconds, after one to warm up."""
    step()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("matrices", 30), ("rows", 256), ("columns", 768), ("threads", 2), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--no-bf16", action="store_true", help="treat the CPU as one without BF16 products")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    shape = (arguments.rows, arguments.columns)
    parameters = [nn.Parameter(torch.randn(shape) * 0.02) for _ in range(arguments.matrices)]
    for parameter in parameters:
        parameter.grad = torch.randn(shape)
    theirs = torch.optim.Muon(parameters, lr=1e-3, adjust_lr_fn="match_rms_adamw")
    own = ours.MuonAdamW([{"params": parameters, "muon": True, "lr": 1e-3}])
    native = ours.multiplies_bf16(torch.device("cpu")) and not arguments.no_bf16
    with mock.patch.object(ours, "multiplies_bf16", lambda device: native):
        print(f"torch {torch.__version__}, {arguments.matrices} matrices of {shape[0]} x {shape[1]}, "
              f"{arguments.threads} threads, native BF16: {native}")  # fmt: skip
        print(f"this project      {median_ms(own.step, arguments.repeats):8.1f} ms a step")
    print(f"torch.optim.Muon  {median_ms(theirs.step, arguments.repeats):8.1f} ms a step")


if __name__ == "__main__":
    main()
