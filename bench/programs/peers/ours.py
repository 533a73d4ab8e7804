"""janus-edge itself. Unlike the peers' ``codes``, its steps include guidance and sampling."""

from __future__ import annotations

from functools import partial

from janus_edge.bench.process import Workloads
from janus_edge.bench.programs.peers.setup import Peers, Setup
from janus_edge.bench.workloads import Settings, open_workloads
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import OptionError

_DRAWN = {"janus": ("codes", "draw"), "janusflow": ("flow",)}  # workloads in which it draws


def open_ours(setup: Setup, reference: bool = False) -> tuple[str, Workloads]:
    """Open a bundle's workloads.

    Args:
        setup: What peers are opened with.
        reference: Whether to draw with the papers' settings.

    Raises:
        OptionError: No bundle was named.
    """
    if setup.bundle is None:
        raise OptionError("janus-edge has no bundle to run; name one with --bundle")
    settings = Settings(
        num_threads=setup.num_threads,
        device=setup.device,
        prompt_length=setup.prompt_tokens,
        max_tokens=setup.max_tokens,
        reference=reference,
        # How many drafts are right depends on the weights, and these are random (docs/decoding.md).
        parallel=1 if open_bundle(setup.bundle).manifest.family == "janus" else None,
    )
    opened, workloads = open_workloads(setup.bundle, settings)
    drawing = workloads.pop("draw")
    workloads |= dict.fromkeys(_DRAWN[opened.family], drawing)
    lengths = f"{opened.prompt_tokens} tokens of prompt, {opened.question_tokens} of a question"
    drawn = "the papers' settings" if reference else "its own settings"
    return f"{opened.name}, {opened.weights}, {lengths}, {drawn}", workloads


PEERS: Peers = {
    **{workload: {"janus-edge": open_ours} for workload in ("codes", "draw", "ask")},
    # A flow's time depends on its steps: once as many as the reference loop's, once its own.
    "flow": {
        "janus-edge": partial(open_ours, reference=True),
        "janus-edge by default": open_ours,
    },
}
