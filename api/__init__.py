"""janus-edge: draw images and ask about them with compiled bundles of the Janus family.

    import janus_edge
    model = janus_edge.load()
    image = model.draw("a red apple", seed=2)
    model.ask(image, "what is this?")

Each step of a request, as events:

    session = janus_edge.Session(janus_edge.open_bundle())
    for event in session.generate_image(janus_edge.ImageRequest(prompt="a red apple")):
        if isinstance(event, janus_edge.Image):
            event.pixels  # (H, W, 3) uint8

Names load when first used, so importing the package costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# These libraries send usage data unless the variables are set before they load.
for _variable in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "1")

if TYPE_CHECKING:
    from janus_edge.runtime.bundle import Bundle, open_bundle, shipped_bundles
    from janus_edge.runtime.conversation import Conversation
    from janus_edge.runtime.drawn import DrawnImage
    from janus_edge.runtime.errors import (
        BundleError,
        DeviceError,
        ImageError,
        ImageWarning,
        JanusEdgeError,
        OptionError,
        OutputError,
        PromptError,
        PullError,
        PushError,
    )
    from janus_edge.runtime.events import Event, Finished, Image, Preview, Progress, Text
    from janus_edge.runtime.everyday import Chat, Model, load
    from janus_edge.runtime.image import load_image
    from janus_edge.runtime.prompt import Turn
    from janus_edge.runtime.requests import AskRequest, ImageRequest
    from janus_edge.runtime.session import Session
    from janus_edge.runtime.stream import Stream

__all__ = [
    "AskRequest",
    "Bundle",
    "BundleError",
    "Chat",
    "Conversation",
    "DeviceError",
    "DrawnImage",
    "Event",
    "Finished",
    "Image",
    "ImageError",
    "ImageRequest",
    "ImageWarning",
    "JanusEdgeError",
    "Model",
    "OptionError",
    "OutputError",
    "Preview",
    "Progress",
    "PromptError",
    "PullError",
    "PushError",
    "Session",
    "Stream",
    "Text",
    "Turn",
    "__version__",
    "load",
    "load_image",
    "open_bundle",
    "shipped_bundles",
]

_HOMES = {
    "bundle": ("Bundle", "open_bundle", "shipped_bundles"),
    "conversation": ("Conversation",),
    "drawn": ("DrawnImage",),
    "errors": (
        "BundleError",
        "DeviceError",
        "ImageError",
        "ImageWarning",
        "JanusEdgeError",
        "OptionError",
        "OutputError",
        "PromptError",
        "PullError",
        "PushError",
    ),
    "everyday": ("Chat", "Model", "load"),
    "events": ("Event", "Finished", "Image", "Preview", "Progress", "Text"),
    "image": ("load_image",),
    "prompt": ("Turn",),
    "requests": ("AskRequest", "ImageRequest"),
    "session": ("Session",),
    "stream": ("Stream",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used; raise AttributeError for others."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'janus_edge' has no attribute {name!r}")
    return getattr(import_module(f"janus_edge.runtime.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
