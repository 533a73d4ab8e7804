"""JanusFlow as its reference demo draws: no KV cache, 30 Euler steps.

It is our PyTorch model, eager, in bf16; its autoencoder is in fp32, as it gives NaN in fp16.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch

from janus_edge.bench.process import Run, Workloads
from janus_edge.bench.programs.peers.setup import SEED, Peers, Setup
from janus_edge.model.janusflow import JanusFlow, unconditional_rows
from janus_edge.model.weights import load_checkpoint
from janus_edge.runtime.errors import OptionError

CHECKPOINT = "janusflow-1.3b"  # in Setup.made: python tools/make_checkpoint.py janusflow-1.3b DIR
STEPS, GUIDANCE = 30, 2.0


def open_flow(setup: Setup) -> tuple[str, Workloads]:
    """Open ``flow``.

    Raises:
        OptionError: The checkpoint has not been made.
    """
    folder = setup.made / CHECKPOINT
    if not folder.exists():
        make = f"python tools/make_checkpoint.py {CHECKPOINT} {folder}"
        raise OptionError(f"{folder}: no such checkpoint; make it: {make}")
    torch.set_num_threads(setup.num_threads)
    model = load_checkpoint(folder).model
    assert isinstance(model, JanusFlow)
    model.to(torch.bfloat16)
    model.vae.float()
    model.to(setup.device)
    workloads: Workloads = {"flow": partial(_draw, model.eval(), setup)}
    return f"torch {torch.__version__}, {STEPS} Euler steps, nothing cached", workloads


@torch.inference_mode()
def _draw(model: Any, setup: Setup) -> Run:
    """Draw an image and return its times."""
    generator = torch.Generator().manual_seed(SEED)
    prompt = torch.randint(10, 1000, (1, setup.prompt_tokens), generator=generator)
    prompt = prompt.to(setup.device)
    other, visible = unconditional_rows(prompt, 0)
    seen = torch.cat([torch.ones_like(visible), visible])
    size = model.latent_size
    z = torch.randn(1, model.config.flow.latent_channels, size, size, generator=generator)
    z = z.to(setup.device)
    began, ends_ms = time.perf_counter(), []
    words = model.embed_text(torch.cat([prompt, other]))
    for step in range(STEPS):
        t = torch.full((2,), step / STEPS, dtype=torch.bfloat16, device=setup.device)
        both = torch.cat([z, z]).to(torch.bfloat16)
        with torch.autocast(
            setup.device, torch.bfloat16
        ):  # the timestep's embedding is computed in fp32
            v, u = model.velocity(words, both, t, seen).float().chunk(2)
        z = z + (u + GUIDANCE * (v - u)) / STEPS
        ends_ms.append((time.perf_counter() - began) * 1e3)
    assert torch.isfinite(model.vae.to_pixels(z)).all()
    return Run(total_ms=(time.perf_counter() - began) * 1e3, step_ends_ms=tuple(ends_ms))


PEERS: Peers = {"flow": {"PyTorch bf16, reference loop": open_flow}}
