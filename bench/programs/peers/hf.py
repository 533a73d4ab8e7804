"""Janus of transformers in fp32, its default on a CPU, and in bf16, eager and compiled."""

from __future__ import annotations

import time
import warnings
from functools import partial
from typing import Any

import torch
import transformers
from transformers import GenerationConfig, JanusConfig, JanusForConditionalGeneration

from janus_edge.bench.process import Run, Workloads
from janus_edge.bench.programs.peers.setup import (
    EPSILON,
    HEADS,
    HIDDEN,
    IMAGE,
    IMAGE_SIZE,
    INTERMEDIATE,
    LAYERS,
    NUM_CODES,
    SEED,
    THETA,
    VOCABULARY,
    Open,
    Peers,
    Setup,
)

BOS, EOS, PAD, BEGIN, PLACEHOLDER = 100000, 100001, 100015, 100016, 100581


def open_janus(
    setup: Setup, *, dtype: torch.dtype, compiled: bool = False
) -> tuple[str, Workloads]:
    """Open ``draw`` with guidance 5, and ``ask``.

    Args:
        setup: What peers are opened with.
        dtype: Dtype of all parts.
        compiled: Whether to compile the language model; shapes are dynamic, as its caches grow.
    """
    torch.set_num_threads(setup.num_threads)
    torch.manual_seed(SEED)
    model = _model(dtype).to(setup.device)
    if compiled:
        model.model.language_model.compile(dynamic=True)
    workloads: Workloads = {
        "draw": partial(_draw, model, setup),
        "ask": partial(_ask, model, setup),
    }
    return f"transformers {transformers.__version__}, torch {torch.__version__}", workloads


def _config() -> Any:
    """Return the config of Janus-Pro-1B's shape."""
    return JanusConfig(
        text_config={
            "model_type": "llama",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 16384,
            "rms_norm_eps": EPSILON,
            "rope_theta": THETA,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
        },
        vision_config={
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": IMAGE_SIZE,
            "patch_size": 16,
            "projection_dim": HIDDEN,
            "num_image_tokens": IMAGE,
            "depth": 2,
        },
        vq_config={
            "embed_dim": 8,
            "num_embeddings": NUM_CODES,
            "projection_dim": HIDDEN,
            "image_token_embed_dim": HIDDEN,
            "num_patches": 24,
        },
        image_token_id=PLACEHOLDER,
    )


def _model(dtype: torch.dtype) -> Any:
    """Return a model of Janus-Pro-1B's shape with random weights."""
    config = _config()
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device("meta"):
        model = JanusForConditionalGeneration(config)
    torch.set_default_dtype(before)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                value.fill_(1.0) if "norm" in name else value.normal_(0, 0.02)
    _restore_buffers(model, config, dtype)
    model.train(False)
    return model


def _restore_buffers(model: Any, config: Any, dtype: torch.dtype) -> None:
    """Set what is computed at creation and not stored: rotary frequencies, positions."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    model.model.language_model.rotary_emb = LlamaRotaryEmbedding(config.text_config)
    for name, value in model.named_buffers():
        if name.endswith("position_ids"):
            value.copy_(torch.arange(value.shape[-1]).expand_as(value))


class _Clock:
    """Clock that notes when each code or token is there; it has a streamer's methods."""

    def __init__(self, skip: int = 0) -> None:
        self._began, self._skip = time.perf_counter(), skip
        self.ends_ms: list[float] = []

    def put(self, _value: Any) -> None:
        if self._skip:
            self._skip -= 1
        else:
            self.ends_ms.append((time.perf_counter() - self._began) * 1e3)

    def end(self) -> None: ...

    def run(self) -> Run:
        if torch.cuda.is_available():  # the GPU may still be computing
            torch.cuda.synchronize()
        total_ms = (time.perf_counter() - self._began) * 1e3
        return Run(total_ms=total_ms, step_ends_ms=tuple(self.ends_ms))


@torch.inference_mode()
def _draw(model: Any, setup: Setup) -> Run:
    """Draw an image and return its times."""
    words = torch.randint(10, 1000, (1, setup.prompt_tokens - 2))
    prompt = torch.cat([torch.tensor([[BOS]]), words, torch.tensor([[BEGIN]])], dim=1)
    prompt = prompt.to(setup.device)
    make: Any = GenerationConfig
    settings = make(
        guidance_scale=5.0,
        do_sample=True,
        top_k=0,
        max_length=setup.prompt_tokens + IMAGE,
        pad_token_id=PAD,
        bos_token_id=BOS,
    )
    settings.generation_kwargs = {"boi_token_id": BEGIN}
    clock = _Clock()
    # Called once per code, to embed it for the next step.
    hook = model.model.generation_embeddings.register_forward_pre_hook(
        lambda _module, codes: clock.put(codes)
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                generation_mode="image",
                generation_config=settings,
            )
    finally:
        hook.remove()
    assert model.decode_image_tokens(made).shape[0] == 1
    return clock.run()


@torch.inference_mode()
def _ask(model: Any, setup: Setup) -> Run:
    """Answer a question about an image and return the times."""
    words = torch.randint(10, 1000, (1, setup.prompt_tokens - 1))
    image = torch.full((1, IMAGE), PLACEHOLDER)
    prompt = torch.cat([torch.tensor([[BOS]]), image, words], dim=1).to(setup.device)
    pixels = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=model.dtype, device=setup.device)
    pixels = pixels * 2 - 1
    clock = _Clock(skip=1)  # the prompt comes first
    model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        pixel_values=pixels,
        generation_mode="text",
        do_sample=False,
        max_new_tokens=setup.max_tokens,
        min_new_tokens=setup.max_tokens,
        pad_token_id=PAD,
        streamer=clock,
    )
    return clock.run()


_BOTH: dict[str, Open] = {
    "transformers bf16": partial(open_janus, dtype=torch.bfloat16),
    "transformers fp32": partial(open_janus, dtype=torch.float32),
}
_COMPILED: dict[str, Open] = {
    "transformers bf16 compiled": partial(open_janus, dtype=torch.bfloat16, compiled=True)
}
PEERS: Peers = {"draw": _BOTH | _COMPILED, "ask": _BOTH}
