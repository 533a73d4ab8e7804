"""llama.cpp through llama-cpp-python: the decoder over codes and its head in Q4_0, KV in fp16.

By llama.cpp's own rules the head would be Q6_K, which is larger: Q4_0 is to its advantage.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

from janus_edge.bench.process import Run, Workloads
from janus_edge.bench.programs.peers.setup import (
    EPSILON,
    HEADS,
    HIDDEN,
    IMAGE,
    INTERMEDIATE,
    LAYERS,
    NUM_CODES,
    SEED,
    THETA,
    Peers,
    Setup,
    codes,
)
from janus_edge.runtime.files import atomic_write

FILE = "codes-q4_0.gguf"
BLOCK, BLOCK_BYTES = 32, 18  # of Q4_0: an fp16 scale and 32 quantized values
ROWS = 2


def open_llama(setup: Setup) -> tuple[str, Workloads]:
    """Open ``codes``: two sequences in one batch per step."""
    path = setup.made / FILE
    if not path.exists():
        with atomic_write(path) as part:
            _write(part)
    quiet = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = ROWS * (setup.prompt_tokens + IMAGE + 64)
    options.n_seq_max = ROWS
    options.n_batch = options.n_ubatch = 512
    options.n_threads = options.n_threads_batch = setup.num_threads
    context = llama_cpp.llama_init_from_model(model, options)
    if not context:
        raise RuntimeError("llama.cpp made no context")
    workloads: Workloads = {"codes": partial(_draw, context, setup, quiet)}
    return f"llama-cpp-python {llama_cpp.__version__}", workloads


def _draw(context: Any, setup: Setup, _quiet: Any) -> Run:
    """Decode an image's codes and return the times."""
    prompt, image = codes(setup)
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    began, ends_ms = time.perf_counter(), []
    _decode(context, np.tile(prompt, ROWS), np.tile(np.arange(len(prompt)), ROWS), len(prompt))
    for position, code in enumerate(image[:-1], len(prompt)):
        ends_ms.append((time.perf_counter() - began) * 1e3)
        _decode(context, np.full(ROWS, code), np.full(ROWS, position), 1)
    ends_ms.append((time.perf_counter() - began) * 1e3)
    return Run(total_ms=ends_ms[-1], step_ends_ms=tuple(ends_ms))


def _decode(context: Any, ids: np.ndarray, positions: np.ndarray, length: int) -> None:
    """Decode ``length`` positions of each row, and compute the logits of each row's last."""
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, (code, position) in enumerate(zip(ids, positions, strict=True)):
        batch.token[i], batch.pos[i] = int(code), int(position)
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, i // length
        batch.logits[i] = (i + 1) % length == 0
    if llama_cpp.llama_decode(context, batch):
        raise RuntimeError("llama_decode failed")
    for row in range(ROWS):  # waits for the result
        logits = llama_cpp.llama_get_logits_ith(context, (row + 1) * length - 1)
        assert np.isfinite(np.ctypeslib.as_array(logits, (NUM_CODES,))).all()
    llama_cpp.llama_batch_free(batch)


def _write(path: Path) -> None:
    """Write the GGUF file with random weights."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(NUM_CODES)
    writer.add_tokenizer_model("none")
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(THETA)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    rng = np.random.default_rng(SEED)
    for name, rows, columns in _matrices():
        levels = _blocks(rng, rows, columns)
        writer.add_tensor(name, levels, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    for name in _norms():
        writer.add_tensor(name, np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _blocks(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return random quantized values with one scale, (rows, bytes per row).

    Their standard deviation is about 0.02.
    """
    blocks = rng.integers(0, 256, (rows, columns // BLOCK, BLOCK_BYTES), np.uint8)
    blocks[..., :2] = np.frombuffer(np.float16(0.02 / 4.6).tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


def _matrices() -> Iterator[tuple[str, int, int]]:
    """Yield the name, rows and columns of each matrix."""
    yield "token_embd.weight", NUM_CODES, HIDDEN
    yield "output.weight", NUM_CODES, HIDDEN
    for i in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{i}.{name}.weight", HIDDEN, HIDDEN
        yield f"blk.{i}.ffn_gate.weight", INTERMEDIATE, HIDDEN
        yield f"blk.{i}.ffn_up.weight", INTERMEDIATE, HIDDEN
        yield f"blk.{i}.ffn_down.weight", HIDDEN, INTERMEDIATE


def _norms() -> Iterator[str]:
    """Yield the name of each norm."""
    yield "output_norm.weight"
    for i in range(LAYERS):
        yield from (f"blk.{i}.attn_norm.weight", f"blk.{i}.ffn_norm.weight")


PEERS: Peers = {"codes": {"llama.cpp Q4_0": open_llama}}
