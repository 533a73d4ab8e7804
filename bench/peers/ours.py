"""janus-edge itself. Its steps, unlike the peers' ``codes``, are with guidance and sampling."""

from __future__ import annotations

from janus_edge.bench.peers.setup import Open, Setup
from janus_edge.bench.process import Works
from janus_edge.bench.work import Settings, open_works
from janus_edge.runtime.errors import OptionError


def open_ours(setup: Setup) -> tuple[str, Works]:
    """A bundle's works. Raises OptionError where none was named."""
    if setup.bundle is None:
        raise OptionError("janus-edge has no bundle to run; name one with --bundle")
    settings = Settings(
        num_threads=setup.num_threads,
        prompt_length=setup.prompt_tokens,
        max_tokens=setup.max_tokens,
    )
    opened, works = open_works(setup.bundle, settings)
    if opened.family == "janus":
        works["codes"] = works["draw"]
    return f"{opened.name}, {opened.weights}, {opened.prompt_tokens} tokens of prompt", works


PEERS: dict[str, Open] = {"janus-edge": open_ours}
