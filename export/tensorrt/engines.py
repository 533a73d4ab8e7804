"""Build a component's portable graph to an engine of TensorRT or TensorRT-RTX.

Large operators compute in half precision (quantization/half.py), which is checked before anything
is built. The engine itself cannot run where there is no GPU. So what the parser made of the graph
is compared with the graph: inputs, outputs, caches updated in place, attention and its mask.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from janus_edge.export.bundle.entries import tensor_entry
from janus_edge.export.graph.component import Component, Feeds, Ranges, relative_error
from janus_edge.export.graph.parity import ParityError, measure_parity
from janus_edge.export.quantization.half import (
    ATTENTION,
    EVERYTHING,
    keep_casts,
    to_half,
)
from janus_edge.export.tensorrt.network import check_network, limit_attention
from janus_edge.runtime.backends.tensorrt_library import MODULES, find_library, make_logger
from janus_edge.runtime.bundle import file_sha256
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.files import atomic_write
from janus_edge.runtime.kv_cache import is_cache

PRECISIONS = ("float16", "bfloat16")
PORTABLE = "any"  # any of the GPUs that the library builds for at once
MAX_LENGTH = 1024  # positions of the caches, which are read in full: an image and some text
TIMINGS = "timings.bin"  # beside the bundle: what TensorRT has timed on a GPU

# Error allowed in images and codes. Beyond it, all but attention is float32.
_PIXELS = {"image_decoder": 2 / 255, "image_encoder": 2e-3}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What engines are built for.

    Attributes:
        precision: Of large operators, "float16" or "bfloat16".
        target: A compute capability such as "sm_87"; None takes all that the library builds for at
            once.
        timings: A file that keeps what was timed; None keeps nothing.
        builder: "tensorrt_rtx" or "tensorrt"; None takes the first that is installed.

    Raises:
        OptionError: It cannot be built here.
    """

    precision: str = "float16"
    target: str | None = None
    timings: Path | None = None
    builder: str | None = None

    def __post_init__(self) -> None:
        """Raise OptionError for what cannot be built here."""
        if self.precision not in PRECISIONS:
            raise OptionError(
                f'precision is "{self.precision}"; give one of {", ".join(PRECISIONS)}'
            )
        if self.builder not in (None, *MODULES):
            raise OptionError(f'builder is "{self.builder}"; give one of {", ".join(MODULES)}')
        trt = find_library(self.builder)
        if trt is None:
            raise OptionError(
                f"no {self.builder or 'TensorRT'} here; run: pip install "
                "'janus-edge[export,kernels,tensorrt]'"
            )
        if self.target is not None and not re.fullmatch(r"sm_\d{2,3}", self.target):
            raise OptionError(f'target is "{self.target}"; give a compute capability, as sm_89')
        known = _capabilities(trt)
        if self.target is not None and known and self.target not in known:
            raise OptionError(
                f"{self.target}: {trt.__name__} {trt.__version__} builds for {', '.join(known)}; "
                "others take TensorRT itself, on such a device (docs/gpu.md)"
            )


@dataclass(frozen=True)
class Known:
    """A component's examples and their references.

    Attributes:
        examples: Inputs.
        references: What PyTorch computes for them.
    """

    examples: list[Feeds]
    references: list[list[np.ndarray]]


def write_engine(
    component: Component, path: Path, entry: dict[str, Any], plan: Plan, known: Known
) -> tuple[dict[str, Any], str]:
    """Replace a component's graph by its engine.

    Args:
        component: The component.
        path: Its graph.
        entry: The graph's entry for the manifest.
        plan: What the engine is built for.
        known: Examples and references.

    Returns:
        The engine's entry for the manifest, and a line that says how it went.

    Raises:
        ParityError: Half precision loses too much, or the parser changed what the graph says.
    """
    began, trt = time.perf_counter(), find_library(plan.builder)
    proto, dtype, error = _to_half_precision(component, path, plan.precision, known)
    slots = component.profile.get("M")
    if slots is not None:  # a KV cache that is updated in place has one length
        _fix(proto, "M", slots[2])
    uses = component.uses or {"all": component.profile}
    source, engine = path.with_suffix(".halved.onnx"), path.with_suffix(".engine")
    onnx.save(proto, source)
    with atomic_write(engine) as part:
        part.write_bytes(build_engine(trt, source, proto, uses, plan))
    for left in (path, source, path.with_suffix(".data")):
        left.unlink(missing_ok=True)
    ends = {"inputs": proto.graph.input, "outputs": proto.graph.output}
    made = {key: entry[key] for key in ("weights", "quantization", "profile")} | {
        "file": engine.name,
        "sha256": file_sha256(engine),
        "backend": "tensorrt",
        "target": plan.target or PORTABLE,
        "dtype": dtype,
        **{name: [tensor_entry(value) for value in values] for name, values in ends.items()},
        "profiles": uses,
        "builder": {"module": trt.__name__, "version": trt.__version__},
    }
    took = time.perf_counter() - began
    return made, f"ok (error {error:.1e}), {dtype}, {took:.1f} s"


def _to_half_precision(
    component: Component, path: Path, precision: str, known: Known
) -> tuple[onnx.ModelProto, str, float]:
    """Return the graph with large operators in half precision, their dtype, and its error."""
    proto = onnx.load(path, load_external_data=False)
    attempts = [(precision, precision, EVERYTHING)]
    if component.name in _PIXELS:  # the 8 bits of bfloat16 would show in an image
        attempts = [] if precision == "bfloat16" else attempts
        attempts += [("float32", half, ATTENTION) for half in PRECISIONS]
    for dtype, half, operators in attempts:
        made = to_half(proto, half, operators)
        check = _error_of_bfloat16 if half == "bfloat16" else _error_of_float16
        try:
            return made, dtype, check(component, path, made, known)
        except ParityError as error:
            failed = error
    raise ParityError(f"{failed}; try --precision bfloat16, which has the range of float32")


def _error_of_float16(
    component: Component, path: Path, proto: onnx.ModelProto, known: Known
) -> float:
    """Return the error of the rewritten graph, run on this machine. Raises ParityError."""
    examples, references = known.examples, known.references
    changed = path.with_suffix(".halved.onnx")
    onnx.save(keep_casts(proto), changed)
    converted = [
        {name: array.astype("float16") if is_cache(name) else array for name, array in each.items()}
        for each in examples
    ]
    tolerance = _PIXELS.get(component.name)
    if tolerance is not None:
        return measure_parity(
            component, changed, "use", converted, references, tolerance=tolerance
        ).error
    with torch.autocast("cpu", dtype=torch.float16):
        eager = component.references(examples, fake_quantize=component.is_quantized)
    return measure_parity(component, changed, "use", converted, references, eager).error


def _error_of_bfloat16(
    component: Component, path: Path, proto: onnx.ModelProto, known: Known
) -> float:
    """Return PyTorch's error in bfloat16, as no backend for a CPU runs such graphs.

    Raises:
        ParityError: The error is not finite.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        eager = component.references(known.examples, fake_quantize=component.is_quantized)
    pairs = zip(chain(*eager), chain(*known.references), strict=True)
    error = max(relative_error(low, exact) for low, exact in pairs)
    if not np.isfinite(error):
        raise ParityError(f"{component.name}: not finite in bfloat16")
    return error


def _fix(proto: onnx.ModelProto, dimension: str, size: int) -> None:
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == dimension:
                dim.dim_value = size


def build_engine(
    trt: Any, source: Path, proto: onnx.ModelProto, uses: dict[str, Ranges], plan: Plan
) -> Any:
    """Return the serialized engine of a graph, with one optimization profile per use.

    Args:
        trt: The TensorRT module.
        source: The graph's file.
        proto: The same graph, to compare with.
        uses: Ranges of the shapes, by use.
        plan: What the engine is built for.

    Raises:
        ParityError: The parser or the builder refuses the graph, or has made something else of it.
    """
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(source)):
        reason = parser.get_error(0).desc().splitlines()[0]
        raise ParityError(f"{source.name}: {trt.__name__} {trt.__version__}: {reason}")
    config = builder.create_builder_config()
    for ranges in uses.values():
        config.add_optimization_profile(_profile(builder, proto, ranges))
    check_network(trt, network, proto)
    limit_attention(trt, network)
    config.clear_flag(trt.BuilderFlag.TF32)  # compute float32 in full precision
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # needed to capture a step
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    _aim(trt, config, plan.target)
    timed = None if _capabilities(trt) else _timings(config, plan.timings)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        reason = next(iter(logger.errors), "no reason given")
        raise ParityError(f"{source.name}: {trt.__name__} {trt.__version__}: {reason}")
    if timed is not None and plan.timings is not None:
        _keep(timed, plan.timings)
    return engine


def _timings(config: Any, path: Path | None) -> Any:
    """Return the timing cache of earlier builds, set in the configuration.

    TensorRT-RTX times nothing when it builds.
    """
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    config.set_timing_cache(cache, True)  # True: leave out timings of other GPUs, do not refuse
    return cache


def _keep(timed: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        part.write_bytes(bytes(timed.serialize()))


def _profile(builder: Any, proto: onnx.ModelProto, ranges: Ranges) -> Any:
    profile = builder.create_optimization_profile()
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        shapes = [
            [ranges[dim.dim_param][i] if dim.dim_param else dim.dim_value for dim in dims]
            for i in range(3)
        ]
        profile.set_shape(value.name, *shapes)
        if [list(shape) for shape in profile.get_shape(value.name)] != shapes:
            raise ParityError(f"{value.name}: the builder does not take {shapes} for a profile")
    return profile


def _capabilities(trt: Any) -> list[str]:
    """Return what the library builds for without such a GPU; nothing for TensorRT itself."""
    known = getattr(trt, "ComputeCapability", None)
    names = () if known is None else known.__members__
    return sorted((f"sm_{name[2:]}" for name in names if name.startswith("SM")), key=len)


def _aim(trt: Any, config: Any, target: str | None) -> None:
    if not _capabilities(trt):  # TensorRT itself builds for the GPU at hand
        if target is None:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    elif target is not None:
        config.num_compute_capabilities = 1
        capability = getattr(trt.ComputeCapability, target.replace("_", "").upper())
        config.set_compute_capability(capability, 0)
