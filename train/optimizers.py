"""The optimizers of a stage: AdamW, or Muon for the matrices of the layers.

Muon takes from the momentum of a matrix its singular values, so that directions that few examples
ask for move as far as common ones (docs/log.md, 2026-11-29).

Source: https://kellerjordan.github.io/posts/muon/, and arXiv 2502.16982 for ``match_rms_adamw``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn
from torch.optim import AdamW, Muon, Optimizer


def optimizers_of(
    named: Iterable[tuple[str, nn.Parameter]],
    by_muon: Sequence[str],
    *,
    rate: float,
    betas: tuple[float, float],
    decay: float,
    is_fused: bool = False,
) -> list[Optimizer]:
    """Return the optimizers that together train a stage's parameters.

    All take the stage's rate: Muon scales its steps to the size that AdamW's have.

    Args:
        named: The parameters that learn, by name. Adapters always take AdamW.
        by_muon: Muon takes the matrices whose names hold all of these; nothing for none.
        rate: Learning rate.
        betas: AdamW's.
        decay: Weight decay.
        is_fused: Whether AdamW runs as one kernel, which sharded parameters do not have.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in named:
        fits = by_muon and parameter.ndim == 2 and "lora_" not in name
        (matrices if fits and all(part in name for part in by_muon) else others).append(parameter)
    found: list[Optimizer] = []
    if others:
        found.append(AdamW(others, lr=rate, betas=betas, weight_decay=decay, fused=is_fused))
    if matrices:
        found.append(Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return found
