"""What the benchmarks would time runs; how long it takes, only a device can say."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from janus_edge.bench.programs.kernels.__main__ import KERNELS, main
from tests.kernels.conftest import DEVICE

# One of them takes half a minute where Triton interprets it; tests/kernels has it with fewer codes.
SLOW = "nearest_code"


@pytest.mark.parametrize(
    "kernel",
    [*(k for k in KERNELS if k != SLOW), pytest.param(SLOW, marks=pytest.mark.slow)],
)
def test_both_ways_run(kernel: str) -> None:
    case = next(iter(import_module(f"janus_edge.bench.programs.kernels.{kernel}").cases(DEVICE)))
    case.ours()
    case.eager()
    assert case.num_bytes > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_they_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["kernels"])
    with pytest.raises(SystemExit, match="no GPU here"):
        main()
    for name in ("cubins", "step"):
        with pytest.raises(SystemExit, match=f"{name}: no (NVIDIA driver|cuda-python)"):
            import_module(f"janus_edge.bench.programs.kernels.{name}").main()
