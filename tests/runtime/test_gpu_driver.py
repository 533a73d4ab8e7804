"""Our own cubins through cuda-bindings alone, on any NVIDIA GPU: no TensorRT, no Triton's launcher.

    pytest tests/runtime/test_gpu_driver.py

Without a GPU ``test_gpu_stub.py`` runs these tests on a ``libcuda.so.1`` that it builds.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from janus_edge.kernels import flow_update, look_up, nearest_code, sample
from janus_edge.kernels.compile import OVERLAPS_FROM, TARGETS
from janus_edge.kernels.decoder_specs import PARTS
from janus_edge.runtime.backends.cubins import Kernels
from janus_edge.runtime.cuda import Cuda, DeviceArray, Event
from janus_edge.runtime.driver import num_gpus
from janus_edge.runtime.errors import BundleError, DeviceError
from janus_edge.runtime.flow import NUM_FACTORS, FlowSettings, factors
from janus_edge.runtime.manifest import Kernel

CODES, WIDTH, LATENT = 16384, 2048, (4, 48, 48)


def _has_gpu() -> bool:
    try:
        return num_gpus()[1] > 0
    except DeviceError:
        return False


pytestmark = pytest.mark.skipif(not _has_gpu(), reason="no NVIDIA GPU here")


@dataclass(frozen=True)
class Gpu:
    """A GPU with our cubins on it."""

    cuda: Cuda
    kernels: Kernels

    def up(self, array: np.ndarray | torch.Tensor) -> DeviceArray:
        """A copy on the device, of a copy: the copying may come later than a test's next line."""
        return self.cuda.uploaded(np.asarray(array).copy())

    def down(self, array: DeviceArray) -> np.ndarray:
        """A copy on the host, once all work is done."""
        found = np.empty(array.shape, array.dtype)
        self.cuda.download(found, array)
        self.cuda.synchronize()
        return found


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Gpu:
    """Cubins are compiled in a process of their own: what is interpreted here does not compile."""
    cuda, folder = Cuda(), tmp_path_factory.mktemp("cubins")
    if cuda.capability not in TARGETS:
        pytest.skip(f"{cuda.name}: no cubins for sm_{cuda.capability}")
    kept = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "janus_edge.kernels.compile", str(folder)]
    subprocess.run([*command, "--target", f"sm_{cuda.capability}"], check=True, env=kept)
    entries = json.loads((folder / "kernels.json").read_text(encoding="utf-8"))
    kernels = tuple(Kernel.model_validate(entry) for entry in entries)
    return Gpu(cuda, Kernels(cuda, folder, kernels))


def _logits(rows: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, CODES, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize(
    "how",
    [
        {"guidance_scale": 5.0, "temperature": 1.0, "top_k": 0},
        {"guidance_scale": 5.0, "temperature": 0.7, "top_k": 200},
        {"guidance_scale": 1.0, "temperature": 1.0, "top_k": 0},
        {"guidance_scale": 2.5, "temperature": 0.0, "top_k": 0},
        {"guidance_scale": 1.0, "temperature": 1e-7, "top_k": 3},
        {"guidance_scale": 1.0, "temperature": 1e-5, "top_k": 1},
        {"guidance_scale": 1.5, "temperature": 50.0, "top_k": 10**6},
    ],
)
@pytest.mark.parametrize("images", [1, 5])
def test_sample(gpu: Gpu, images: int, how: dict[str, float]) -> None:
    for seed in range(8):
        logits = _logits((2 if how["guidance_scale"] != 1.0 else 1) * images, seed)
        found, expected = _sampled(gpu, logits, images, seed, how)
        assert found.tolist() == expected.tolist()


def test_unsound_logits_have_no_code(gpu: Gpu) -> None:
    """-1, which the loop turns into an error (docs/sampling.md); other images draw theirs."""
    for wrong in (np.nan, np.inf, -np.inf, 2e30):
        logits, (seeds, positions) = _logits(3, 2), _counters(3, 2)
        logits[1, 77] = wrong
        codes, scales = gpu.up(np.zeros(3, np.int64)), gpu.up(np.ones(2, np.float32))
        arrays = (gpu.up(logits), codes, gpu.up(seeds), gpu.up(positions), scales)
        gpu.kernels.launch("sample", 3, *arrays, gpu.up(np.zeros(1, np.int32)), 0, 3)
        first, unsound, last = gpu.down(codes).tolist()
        assert unsound == -1
        logits[1, 77] = 0
        expected = sample.reference(logits, seeds, positions).tolist()
        assert [first, last] == [expected[0], expected[2]]


def test_sample_where_only_noise_decides(gpu: Gpu) -> None:
    """Equal logits: every slip of the noise would show."""
    how = {"guidance_scale": 1.0, "temperature": 1.0, "top_k": 0}
    for seed in range(16):
        found, expected = _sampled(gpu, torch.zeros(8, CODES), 8, seed, how)
        assert found.tolist() == expected.tolist()


def test_sample_of_near_scores(gpu: Gpu) -> None:
    """Rivals within float32's errors are scored again in float64, to the last place."""
    how = {"guidance_scale": 1.0, "temperature": 1.0, "top_k": 0}
    for seed in range(8):
        noise = torch.from_numpy(_noise(8, seed))
        logits = -noise + torch.randint(-3, 4, noise.shape) * 2.0**-22
        found, expected = _sampled(gpu, logits[:, :CODES], 8, seed, how)
        assert found.tolist() == expected.tolist()


def _noise(images: int, seed: int) -> np.ndarray:
    seeds, positions = _counters(images, seed)
    keys = seeds.numpy().view(np.uint64)
    return np.concatenate(
        [
            sample.sampling.gumbel(keys[i : i + 1], positions.numpy()[i : i + 1], CODES, 0)[:, 0]
            for i in range(images)
        ]
    )


def _counters(images: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(images) * 2**33 + seed - 2**62, torch.arange(images) * 71 + seed


def _sampled(
    gpu: Gpu, logits: torch.Tensor, images: int, seed: int, how: dict[str, float]
) -> tuple[np.ndarray, torch.Tensor]:
    seeds, positions = _counters(images, seed)
    codes = gpu.up(np.full(images, -1))
    scales = np.array([how["guidance_scale"], how["temperature"]], np.float32)
    arrays = (gpu.up(logits), codes, gpu.up(seeds), gpu.up(positions), gpu.up(scales))
    top_ks = gpu.up(np.array([how["top_k"]], np.int32))
    gpu.kernels.launch("sample", images, *arrays, top_ks, 0, images)
    return gpu.down(codes), sample.reference(logits, seeds, positions, **how)


@pytest.mark.parametrize(("images", "rows"), [(1, 1), (1, 2), (7, 14)])
def test_look_up(gpu: Gpu, images: int, rows: int) -> None:
    made = torch.Generator().manual_seed(rows)
    table = torch.randn(CODES, WIDTH, generator=made).half()
    codes = torch.randint(0, CODES, (images,), generator=made)
    state = [
        torch.full((rows, WIDTH), 7.0),
        torch.full((images, 576), -1),
        torch.arange(images),
        torch.full((rows,), -1),
        torch.arange(rows) + 100,
    ]
    device = [gpu.up(array) for array in state]
    given, counts = (gpu.up(codes), gpu.up(table)), (images, rows, 576)
    for _ in range(3):
        gpu.kernels.launch("look_up", images, *given, *device, *counts)
        look_up.reference(codes, table, *state)
    for found, expected in zip(map(gpu.down, device), state, strict=True):
        assert np.array_equal(found, expected.numpy())


def test_nearest_code(gpu: Gpu) -> None:
    made = torch.Generator().manual_seed(1)
    table = torch.nn.functional.normalize(torch.randn(CODES, 8, generator=made), dim=-1)
    vectors = torch.randn(577, 8, generator=made)
    codes = gpu.up(np.full(577, -1))
    gpu.kernels.launch("nearest_code", 37, gpu.up(vectors), gpu.up(table), codes, 577)
    distances = nearest_code.distances(vectors, table)
    chosen = distances.gather(1, torch.from_numpy(gpu.down(codes))[:, None])[:, 0]
    assert (chosen - distances.min(1).values).abs().max() < 1e-5


@pytest.mark.parametrize("solver", ["euler", "ab2"])
def test_flow_update(gpu: Gpu, solver: str) -> None:
    """All steps of a flow, with guidance off for its last part."""
    settings = FlowSettings(guidance_scale=2.0, num_steps=9, solver=solver, guidance_end=0.7)
    table, made = torch.from_numpy(factors(settings)), torch.Generator().manual_seed(3)
    assert table.shape[1] == NUM_FACTORS
    state = [torch.randn(2, *LATENT, generator=made) for _ in range(3)]
    velocities = torch.randn(4, *LATENT, generator=made)
    counters = [torch.zeros(2, dtype=torch.int64), torch.zeros(2)]
    z, before, denoised, steps, times = (gpu.up(each) for each in (*state, *counters))
    given, kept = gpu.up(velocities), gpu.up(table)
    for _ in range(9):
        gpu.kernels.launch("flow_update", 2, z, given, before, denoised, kept, steps, times, 2)
        flow_update.reference(state[0], velocities, *state[1:], table, *counters)
    for found, expected in zip(
        (z, before, denoised, steps, times), (*state, *counters), strict=True
    ):
        assert np.array_equal(gpu.down(found), expected.numpy())  # rounds as a CPU does


def test_a_kernel_that_overlaps_sees_what_the_one_before_wrote(gpu: Gpu) -> None:
    """A captured chain of norms, each of what the one before wrote."""
    if gpu.cuda.capability < OVERLAPS_FROM:
        pytest.skip("kernels overlap on GPUs from 9.0 on")
    made = np.random.default_rng(5)
    first, norm = made.standard_normal((2, WIDTH), np.float32), made.random(WIDTH, np.float32) + 0.5
    nothing = gpu.up(np.zeros((PARTS, 2, WIDTH), np.float32))
    given = nothing, gpu.up(norm), gpu.up(np.zeros((2, WIDTH), np.float32))
    found = []
    for overlaps in (False, True):
        ends = gpu.up(first), gpu.up(first)

        def work(ends: tuple[DeviceArray, ...] = ends, overlaps: bool = overlaps) -> None:
            for index in range(40):
                here, there = ends[index % 2], ends[1 - index % 2]
                values = here, *given, there, 2, 1e-6
                gpu.kernels.launch("last_norm", 2, *values, overlaps=overlaps and index)

        gpu.kernels.launch("last_norm", 2, ends[0], *given, ends[1], 2, 1e-6)  # loads it
        gpu.cuda.capture(work)()
        found.append(gpu.down(ends[0]))
    assert np.array_equal(*found)
    expected = first
    for _ in range(40):
        expected = expected / np.sqrt((expected**2).mean(1, keepdims=True) + 1e-6) * norm
    assert np.abs(found[0] - expected).max() < 1e-3 * np.abs(expected).max()


def test_a_captured_step_runs_as_often_as_it_is_launched(gpu: Gpu) -> None:
    """Sampler and look-up in one graph, replayed, with settings changed between two replays."""
    logits, (seeds, _) = _logits(2, 5), _counters(1, 9)
    drawn, codes = gpu.up(np.full((1, 576), -1)), gpu.up(np.zeros(1, np.int64))
    places, rows = gpu.up(np.zeros(1, np.int64)), gpu.up(np.zeros(2, np.int64))
    scales, top_ks = gpu.up(np.array([5.0, 1.0], np.float32)), gpu.up(np.zeros(1, np.int32))
    table, embeds = (
        gpu.up(np.zeros((CODES, WIDTH), np.float16)),
        gpu.cuda.array((2, WIDTH), "float32"),
    )
    there, keys, lengths = gpu.up(logits), gpu.up(seeds), gpu.up(np.zeros(2, np.int64))

    def work() -> None:
        gpu.kernels.launch("sample", 1, there, codes, keys, places, scales, top_ks, 0, 1)
        rest = (drawn, places, rows, lengths, 1, 2, 576)
        gpu.kernels.launch("look_up", 1, codes, table, embeds, *rest)

    launch = gpu.cuda.capture(work)
    assert launch is not work  # it was captured
    gc.collect()
    expected = []
    for position in range(40):
        if position == 20:
            gpu.cuda.upload(scales, np.array([2.0, 0.5], np.float32))
        launch()
        how = (5.0, 1.0) if position < 20 else (2.0, 0.5)
        (code,) = sample.reference(
            logits, seeds, torch.tensor([position]), guidance_scale=how[0], temperature=how[1]
        ).tolist()
        expected.append(code)
    assert gpu.down(drawn)[0].tolist() == expected + [-1] * 536
    assert gpu.down(lengths).tolist() == [40, 40]


def test_pinned_memory_is_read_after_an_event(gpu: Gpu) -> None:
    page, values = gpu.cuda.pinned((4096,), "int64"), np.arange(4096)
    source = gpu.up(values)
    first = Event(gpu.cuda)
    gpu.cuda.download(page, source)
    second = Event(gpu.cuda)
    second.wait()
    assert np.array_equal(page, values) and second.ms_since(first) >= 0


def test_a_second_thread_draws_the_same(gpu: Gpu) -> None:
    """CUDA's current GPU is a thread's own; ours is made that of whichever calls."""
    logits, how = _logits(2, 1), {"guidance_scale": 5.0, "temperature": 1.0, "top_k": 0}
    with ThreadPoolExecutor(1) as pool:
        found, expected = pool.submit(_sampled, gpu, logits, 1, 1, how).result()
    assert found.tolist() == expected.tolist()


def test_another_cuda_of_the_same_gpu_comes_and_goes(gpu: Gpu) -> None:
    for _ in range(3):
        other = Cuda()
        array = other.zeros((1000,), "uint8")
        other.synchronize()
        del array, other
    gc.collect()
    test_a_second_thread_draws_the_same(gpu)


def test_memory_that_is_not_there_is_one_line(gpu: Gpu) -> None:
    _, total = gpu.cuda.memory()
    with pytest.raises(DeviceError, match=r"out of memory: \d+ MB for a test needed"):
        gpu.cuda.array((2 * total,), "uint8", "a test")
    test_pinned_memory_is_read_after_an_event(gpu)  # and all goes on


def test_a_damaged_cubin_is_one_line(gpu: Gpu, tmp_path: Path) -> None:
    damaged = b"\x7fELF" + bytes(100)
    (tmp_path / "sample.cubin").write_bytes(damaged)
    update = {"file": "sample.cubin", "sha256": hashlib.sha256(damaged).hexdigest()}
    entry = gpu.kernels._found["sample"].model_copy(update=update)
    kernels = Kernels(gpu.cuda, tmp_path, (entry,))
    with pytest.raises((DeviceError, BundleError), match="cuModuleLoadData"):
        kernels.require("sample", "NUM_CODES", CODES)
