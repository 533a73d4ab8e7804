"""Numbers of configs: within bounds, and never a string or a bool instead."""

from __future__ import annotations

import dataclasses
from typing import Any

# Larger numbers mean a damaged config. The bounds are far above any published model, and low enough
# that a model of these sizes can be laid out on the meta device at once.
MOST_INT = 2**20
MOST_OF = {
    "depth": 2**6,
    "heads": 2**10,
    "image_size": 2**13,
    "latent_channels": 2**10,
    "layers": 2**10,
    "layers_in_middle": 2**6,
    "layers_per_block": 2**6,
    "num_attention_heads": 2**10,
    "num_hidden_layers": 2**10,
    "num_key_value_heads": 2**10,
    "num_res_blocks": 2**6,
    "patch": 2**6,
    "vocab_size": 2**22,
    "layer_norm_eps": 1.0,
    "mlp_ratio": 2.0**6,
    "norm_eps": 1.0,
    "rms_norm_eps": 1.0,
    "rope_theta": 1e12,
    "scaling_factor": 1e6,
}
MOST_LEVELS = 8  # resolutions of an image: each but the last halves it


def check_numbers(config: Any) -> None:
    """Check every number of a config dataclass, and turn those declared ``float`` into floats.

    Whole numbers go from 1 to their bound; others are above 0 and at most their bound.

    Args:
        config: The dataclass instance, which may be frozen.

    Raises:
        ValueError: A field is out of bounds or of another type; the error names the first.
    """
    for field in dataclasses.fields(config):
        value, most = getattr(config, field.name), MOST_OF.get(field.name, MOST_INT)
        if field.type == "int":
            _check_whole(field.name, value, int(most))
        elif field.type == "float":
            _check_float(field.name, value, most)
            object.__setattr__(config, field.name, float(value))
        elif field.type == "tuple[int, ...]":
            if not isinstance(value, tuple) or not 1 <= len(value) <= MOST_LEVELS:
                raise ValueError(f"{field.name} is {shown(value)}, not 1 to {MOST_LEVELS} numbers")
            for each in value:
                _check_whole(f"{field.name} has", each, int(most))
        elif field.type == "str" and not isinstance(value, str):
            raise ValueError(f"{field.name} is {shown(value)}, not a name")
        elif field.type == "bool" and not isinstance(value, bool):
            raise ValueError(f"{field.name} is {shown(value)}, not true or false")


def check_colours(name: str, value: Any, most: int) -> None:
    """Raise ValueError if ``value`` is no tuple of at most ``most`` different colours, of 255."""
    if not isinstance(value, tuple) or len(value) > most:
        raise ValueError(f"{name} is {shown(value)}, not a list of at most {most} colours")
    for each in value:
        numbers = each if isinstance(each, tuple) else ()
        if len(numbers) != 3 or not all(type(n) is int and 0 <= n <= 255 for n in numbers):
            raise ValueError(f"{name} has {shown(each)}, not three whole numbers from 0 to 255")
    if len(set(value)) < len(value):
        raise ValueError(f"{name} has a colour twice")


def shown(value: Any) -> str:
    """Return a value as error texts show it: in quotes, shortened to 60 characters."""
    text = str(value)
    return f'"{text[:60]}…"' if len(text) > 60 else f'"{text}"'


def _check_whole(name: str, value: Any, most: int) -> None:
    """Raise ValueError if ``value`` is not an int from 1 to ``most``."""
    if type(value) is not int or not 1 <= value <= most:
        verb = "" if name.endswith(" has") else " is"
        raise ValueError(f"{name}{verb} {shown(value)}, not a whole number from 1 to {most}")


def _check_float(name: str, value: Any, most: float) -> None:
    """Raise ValueError if ``value`` is not a number above 0 and at most ``most``."""
    if type(value) not in (int, float) or not 0 < value <= most:  # neither holds for NaN
        raise ValueError(f"{name} is {shown(value)}, not a number above 0, at most {most:g}")


def with_tuples(value: Any) -> Any:
    """Return JSON's or TOML's value with tuples in place of lists."""
    if isinstance(value, dict):
        return {key: with_tuples(each) for key, each in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value
