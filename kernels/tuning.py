"""Choose how products are divided on each GPU, by ``tuning.json``.

bench/programs/kernels/tune.py makes the table. By compute capability it has each kernel's outputs
of a program, warps, and stages of loads, and says what chose them: times on a device, or an
estimate from the compiled code.
"""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

from janus_edge.kernels.spec import Spec

TABLE = Path(__file__).with_name("tuning.json")


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


def tuned(spec: Spec, target: int) -> Spec:
    """Return a kernel with the table's choice for a GPU; as it is where the table has none.

    Args:
        spec: The kernel.
        target: Compute capability, times ten.
    """
    chosen = _table().get(f"sm_{target}", {}).get("kernels", {}).get(spec.name)
    return spec if chosen is None else configured(spec, **chosen)


def configured(spec: Spec, *, block: int, warps: int, stages: int) -> Spec:
    """Return a product with another configuration.

    Args:
        spec: The product.
        block: Outputs of a program.
        warps: Of a program.
        stages: Turns of the loop whose loads are under way at once, and one more.
    """
    return dataclasses.replace(
        spec,
        constants=spec.constants | {"BLOCK": block},
        num_warps=warps,
        options=spec.options | {"num_stages": stages},
    )
