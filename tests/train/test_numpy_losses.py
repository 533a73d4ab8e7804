"""The losses are those that NumPy computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from janus_edge.model.janusflow import JanusFlow
from janus_edge.train.losses import FlowLosses
from tests.train.bench import Bench

Sums = dict[str, Tensor]


def test_cross_entropy_in_numpy(bench: Bench) -> None:
    layout = bench.layout(bench.step)
    packed = bench.packed([[*layout.pieces]])
    seen: dict[str, Tensor] = {}
    model: Any = bench.model
    heads = {"answer": "text_logits"} | (
        {"image": "image_logits"} if bench.recipe.vae is None else {}
    )
    for name, head in heads.items():
        setattr(model, head, _kept(getattr(model, head), name, seen))
    sums: Sums = bench.trainee(packed)
    for name in heads:
        logits = seen[name].detach().double().numpy()
        logits -= logits.max(1, keepdims=True)
        likely = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        targets = packed.targets[name].numpy()
        wanted = -sum(likely[i, target] for i, target in enumerate(targets))
        assert len(targets) > 5 and sums[name].item() == pytest.approx(wanted, rel=1e-5)
    learned = sum(len(each) for each in packed.targets.values())
    assert learned == layout.num_tokens + layout.num_codes


def _kept(
    head: Callable[[Tensor], Tensor], name: str, seen: dict[str, Tensor]
) -> Callable[[Tensor], Tensor]:
    def call(hidden: Tensor) -> Tensor:
        seen[name] = head(hidden)
        return seen[name]

    return call


@pytest.fixture
def flow(starts: dict[str, Path], dataset: Path, tmp_path: Path) -> Bench:
    return Bench("mini-flow", starts["mini-flow"], dataset, tmp_path)


def test_flow_and_repa_in_numpy(flow: Bench) -> None:
    """Each image by itself through ``velocity``, the loss in NumPy."""
    model, trainee = flow.model, flow.trainee
    assert isinstance(model, JanusFlow) and isinstance(trainee, FlowLosses)
    layout = flow.layout(flow.step)
    drawn = [piece for piece in layout.pieces if piece.draws]
    packed = flow.packed([drawn])
    sums: Sums = trainee(packed)
    velocity = repa = 0.0
    for i, piece in enumerate(drawn):
        x, z0, t = (packed.drawn[n][i].double().numpy() for n in ("latent", "noise", "t"))
        noisy = torch.from_numpy(t * x + (1 - t) * z0).float()[None]
        text = int(np.count_nonzero(piece.kinds_T == 0))
        ids = torch.from_numpy(piece.ids_T[:text])[None]
        positions = torch.from_numpy(piece.positions_T)[None]
        early: list[Tensor] = []
        layer = model.language_model.model.layers[0]  # the recipe's repa.layer is 1
        hook = layer.register_forward_hook(lambda _m, _i, out, early=early: early.append(out))
        with torch.no_grad():
            v = model.velocity(
                model.embed_text(ids), noisy, packed.drawn["t"][i : i + 1], None, positions
            )
            mapped = trainee.projector(early[0][:, text + 1 :])[0].double().numpy()
            clean = model.vision_und_enc_model(packed.drawn["clean"][i : i + 1])
        hook.remove()
        velocity += np.mean((v[0].double().numpy() - (x - z0)) ** 2)
        seen = _pooled(clean[0].double().numpy(), model.latent_grid)
        cosine = (
            (mapped * seen).sum(1) / np.linalg.norm(mapped, axis=1) / np.linalg.norm(seen, axis=1)
        )
        repa += np.mean(1 - cosine)
    assert sums["velocity"].item() == pytest.approx(velocity, rel=1e-5)
    assert sums["repa"].item() == pytest.approx(repa, rel=1e-5)


def _pooled(features_NW: np.ndarray, grid: int) -> np.ndarray:
    """Patch features averaged to one vector per token of the latent."""
    side = int(len(features_NW) ** 0.5)
    block = side // grid
    maps = features_NW.reshape(grid, block, grid, block, -1)
    return maps.mean((1, 3)).reshape(grid * grid, -1)
