"""LoRA through peft: small matrices beside the language model's, merged into them at the end.

Source: arXiv 2106.09685.
"""

from __future__ import annotations

from torch import Tensor, nn

from janus_edge.model.weights import Model
from janus_edge.runtime.errors import OptionError

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PREFIX = "language_model."  # of the parameters that get adapters
ADAPTER = ".lora_"  # in the name of an adapter's parameter
SCALE = 2  # of an adapter: alpha is so many times the rank
_BASE = ".base_layer."  # in the name of a matrix that has an adapter


def add_adapters(model: Model, rank: int) -> None:
    """Put LoRA beside every matrix of the language model's layers, in place.

    Args:
        model: The model.
        rank: Rank of the adapters.

    Raises:
        OptionError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise OptionError("LoRA needs peft; pip install 'janus-edge[train]'") from None
    config = LoraConfig(
        r=rank, lora_alpha=SCALE * rank, target_modules=list(MATRICES), use_rslora=False
    )
    inject_adapter_in_model(config, model.language_model)


def has_adapters(model: nn.Module) -> bool:
    """Return whether adapters stand beside some matrices of a model."""
    return any(ADAPTER in name for name, _ in model.named_parameters())


def is_frozen(name: str) -> bool:
    """Return whether a parameter stays as it is where adapters learn, by its name in the model."""
    return name.startswith(PREFIX) and ADAPTER not in name


def merged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without adapters: each matrix with its adapter added.

    It needs no copy of the model, which FSDP does not allow.

    Args:
        state: The weights of a model with adapters, whole.
    """
    found = {}
    for name, value in state.items():
        if ADAPTER in name:
            continue
        if _BASE in name:
            at = name.replace(_BASE, f"{ADAPTER}{{}}.default.")
            down, up = (state[at.format(side)].float() for side in "AB")
            value = (value.float() + SCALE * up @ down).to(value.dtype)
        found[name.replace(_BASE, ".")] = value
    return found
