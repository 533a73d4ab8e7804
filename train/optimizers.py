"""The optimizers of a stage: AdamW, or Muon for the matrices of the layers.

Muon takes from the momentum of a matrix its singular values, so that directions that few examples
ask for move as far as common ones (docs/log.md, 2026-11-29).

Source: https://kellerjordan.github.io/posts/muon/, and arXiv 2502.16982 for ``match_rms_adamw``.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from janus_edge.train.recipe import Recipe, Stage

_LAYERS = (".language_model.", ".layers.")  # in the names of the parameters that Muon takes


def optimizers_of(
    recipe: Recipe, stage: Stage, named: Iterable[tuple[str, nn.Parameter]]
) -> list[Optimizer]:
    """Return the optimizers that together train a stage's parameters.

    All take the stage's rate: Muon scales its steps to the size that AdamW's have.

    Args:
        recipe: The recipe, which says which optimizer.
        stage: The stage: rate and weight decay.
        named: The parameters that learn, by name. Adapters always take AdamW.
    """
    rate, decay = stage.learning_rate, stage.weight_decay
    by_muon: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in named:
        fits = recipe.optimizer == "muon" and parameter.ndim == 2 and "lora_" not in name
        (by_muon if fits and all(part in name for part in _LAYERS) else others).append(parameter)
    found: list[Optimizer] = []
    if others:
        found.append(AdamW(others, lr=rate, betas=recipe.betas, weight_decay=decay))
    if by_muon:
        found.append(Muon(by_muon, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return found
