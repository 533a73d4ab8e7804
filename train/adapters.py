"""LoRA through peft: small matrices beside the language model's, merged into them at the end.

Source: arXiv 2106.09685.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from janus_edge.model.weights import Model
from janus_edge.runtime.errors import OptionError

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PREFIX = "language_model."  # of the parameters that get adapters


def add_adapters(model: Model, rank: int) -> None:
    """Put LoRA beside every matrix of the language model's layers, in place.

    Args:
        model: The model.
        rank: Rank of the adapters; their scale is 2, as alpha is twice the rank.

    Raises:
        OptionError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise OptionError("LoRA needs peft; pip install 'janus-edge[train]'") from None
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=list(MATRICES), use_rslora=False
    )
    inject_adapter_in_model(config, model.language_model)


def merged(model: Model, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without adapters: each matrix with its adapter added.

    Args:
        model: A model with adapters.
        state: Its weights, whole.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    whole = copy.deepcopy(model).cpu()
    whole.load_state_dict(state)
    layers = {n: m for n, m in whole.named_modules() if isinstance(m, BaseTunerLayer)}
    for name, layer in layers.items():
        layer.merge()
        owner, _, leaf = name.rpartition(".")
        base = layer.get_base_layer()
        assert isinstance(base, nn.Module)
        setattr(whole.get_submodule(owner), leaf, base)
    return whole.state_dict()
