"""A session: an open bundle with its engines. It takes requests and yields events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
from pydantic import InstanceOf

from janus_edge.runtime.answer import answer
from janus_edge.runtime.arguments import Integer, Text, checked, in_range
from janus_edge.runtime.bundle import Bundle
from janus_edge.runtime.decode import Settings
from janus_edge.runtime.devices import AUTO, choose
from janus_edge.runtime.draw_codes import draw_codes
from janus_edge.runtime.draw_flow import draw_flow
from janus_edge.runtime.engines import CONTEXT_MB, Engines
from janus_edge.runtime.errors import OptionError, PromptError
from janus_edge.runtime.events import Event, Finished
from janus_edge.runtime.flow import FlowSettings
from janus_edge.runtime.inflight import InFlight
from janus_edge.runtime.manifest import REFERENCE
from janus_edge.runtime.passes import check_positions
from janus_edge.runtime.requests import AskRequest, ImageRequest, PlannedImage
from janus_edge.runtime.sequences import Answer, Drawing, Sequence
from janus_edge.runtime.sizes import CodeSizes
from janus_edge.runtime.timing import Stopwatch

# Each family's settings for drawing, and the loop that takes them.
_FAMILIES: dict[str, tuple[type[Any], Callable[..., Iterator[Event]]]] = {
    "janus": (Settings, draw_codes),
    "janusflow": (FlowSettings, draw_flow),
}

FAST_GUIDANCE = 0.85  # the part of an image's codes that a fast drawing guides (docs/decoding.md)
# Settings of models that draw codes which no bundle has defaults for.
_OF_CODES = ("guidance_end", "window", "fast", "parallel")


class Session:
    """Runs requests on one bundle. Engines open when first needed.

    Several threads may use a session, and even the events of one request. One thread works at a
    time, from one event to the next.

    Attributes:
        bundle: The bundle.
        device: Where it runs.
    """

    @checked
    def __init__(
        self,
        bundle: InstanceOf[Bundle],
        *,
        num_threads: Integer = 0,
        device: Text = AUTO,
        context_mb: Integer = CONTEXT_MB,
    ) -> None:
        """Choose the device and prepare the engines; none is opened yet.

        Args:
            bundle: An open bundle.
            num_threads: Threads of the engines; 0 lets the backend choose.
            device: A device's name such as "cpu" or "cuda:1" (runtime/devices.py); "auto" takes
                what suits the bundle and is there.
            context_mb: Room for what is kept of requests for later ones, MB (docs/decoding.md); 0
                keeps nothing.

        Raises:
            OptionError: The system does not have so many threads, there is no such device name, or
                a value is out of range.
            DeviceError: The bundle cannot run on the device.
        """
        self.bundle = bundle
        self._sizes, self._encoder = bundle.manifest.sizes, bundle.encoder
        self.device = choose(bundle.manifest, device)
        in_range("context_mb", context_mb, 0, 2**20)
        self._engines = Engines(bundle, num_threads, self.device, context_mb)
        self._lock = threading.Lock()

    @checked
    def image_settings(self, request: InstanceOf[ImageRequest]) -> Settings | FlowSettings:
        """Return a request's settings; one that is not set is the bundle's default, or the papers'.

        Raises:
            OptionError: The bundle's family does not have a setting.
        """
        manifest = self.bundle.manifest
        defaults = REFERENCE[manifest.family] if request.reference else manifest.sampling
        chosen = defaults.model_dump()
        known = [*chosen, *_OF_CODES] if isinstance(self._sizes, CodeSizes) else list(chosen)
        extra = {"parallel": request.parallel is not None, "fast": request.fast}
        for name in (*request.settings, *(name for name, is_set in extra.items() if is_set)):
            if name not in known:
                raise OptionError(
                    f"{name} means nothing to {manifest.name}, a {manifest.family} bundle; leave "
                    f"it out; it has {', '.join(known)}"
                )
        if request.fast and isinstance(self._sizes, CodeSizes):
            chosen["guidance_end"] = FAST_GUIDANCE
        kind, _ = _FAMILIES[manifest.family]
        settings: Settings | FlowSettings = kind(**(chosen | request.settings))
        return settings

    @checked
    def generate_image(self, request: InstanceOf[ImageRequest]) -> Iterator[Event]:
        """Draw the images of a request.

        Returns:
            The events: Progress (and Preview), an Image for each image, Finished.

        Raises:
            PromptError: A prompt is empty or too long. Raised before any work.
            OptionError: The bundle's family does not have a setting, or its decoder does not
                compute as many positions in parallel. Raised before any work.
        """
        settings, planned = self.image_settings(request), self._planned(request)
        _, draw = _FAMILIES[self.bundle.manifest.family]
        watch = Stopwatch()
        events = draw(self._engines, settings, planned, request, watch)
        return _Events(_finished(events, watch), self._lock)

    @checked
    def ask(self, request: InstanceOf[AskRequest]) -> Iterator[Event]:
        """Answer a question.

        Returns:
            The events: Text as it is decoded, Finished.

        Raises:
            PromptError: The question is empty or too long. Raised before any work.
            OptionError: The decoder does not compute as many positions in parallel. Raised before
                any work.
        """
        ids_T = self._prompt_of(request)
        positions = request.parallel or 1
        check_positions(self._engines, "parallel", positions, positions)
        watch = Stopwatch()
        events = answer(self._engines, request, ids_T, watch)
        return _Events(_finished(events, watch), self._lock)

    def run(self, request: ImageRequest | AskRequest) -> Iterator[Event]:
        """Return the events of a drawing or of an answer: ``generate_image`` or ``ask``."""
        if isinstance(request, ImageRequest):
            return self.generate_image(request)
        return self.ask(request)

    @checked
    def sequences(
        self, request: InstanceOf[ImageRequest] | InstanceOf[AskRequest]
    ) -> list[Sequence]:
        """Return a request's images or its answer as sequences that ``in_flight`` runs.

        Returns:
            The sequences; none if the request must run alone: a flow's, one whose rows of codes
            overlap, or on a GPU, whose own loop draws faster.

        Raises:
            JanusEdgeError: As ``generate_image`` and ``ask``.
        """
        if isinstance(request, AskRequest):
            ids_T = self._prompt_of(request)
            return [Answer(self._engines, request, ids_T)] if self._shares_passes else []
        settings, planned = self.image_settings(request), self._planned(request)
        if not isinstance(settings, Settings) or settings.window or not self._shares_passes:
            return []
        shown, previews = request.rgb_images, request.previews
        return [
            Drawing(self._engines, plan, settings, shown, previews=previews) for plan in planned
        ]

    def in_flight(self) -> InFlight:
        """Return what runs sequences together; see ``serve/worker.py``."""
        return InFlight(self._engines)

    @property
    def _shares_passes(self) -> bool:
        return self.device.kind == "cpu" and self.bundle.manifest.cache_slots is None

    @property
    def uses_cpu_kernels(self) -> bool:
        """True if the CPU kernels run the decoder (docs/cpu-kernels.md)."""
        return self._engines.uses_cpu_kernels

    @property
    def uses_cuda_kernels(self) -> bool:
        """True if our GPU kernels run the decoder (docs/kernels.md)."""
        return self._engines.uses_cuda_kernels

    @property
    def component_ms(self) -> dict[str, float]:
        """Milliseconds spent in each component since the session was made."""
        return dict(self._engines.component_ms)

    def _planned(self, request: ImageRequest) -> list[PlannedImage]:
        """Return the images of a request. Raises PromptError."""
        planned: list[PlannedImage] = []
        for prompt in request.prompts:
            ids_T = self._encoder.generation(prompt, request.history, self._sizes.num_image_tokens)
            self._check_length("prompt", ids_T, self._sizes.num_drawn, len(request.history))
            for i in range(request.num_images):
                planned.append(PlannedImage(len(planned), request.seed + i, ids_T))
        return planned

    def _prompt_of(self, request: AskRequest) -> np.ndarray:
        """Return the token ids of a question. Raises PromptError."""
        ids_T = self._encoder.conversation(request.turns, self._sizes.num_image_tokens)
        self._check_length("question", ids_T, 1, len(request.history))
        return ids_T

    def _check_length(self, what: str, ids_T: np.ndarray, follows: int, num_before: int) -> None:
        room = self._sizes.max_length - follows
        if len(ids_T) > room:
            has, do = f"the {what} is", "make it shorter"
            if num_before:
                has, do = f"the conversation and the {what} are", "begin a new conversation"
            raise PromptError(
                f"{has} {len(ids_T)} tokens long, the model's context has room for {room}; {do}"
            )


class _Events(Iterator[Event]):
    """The events of a request, made under the session's lock, as buffers and engines are shared."""

    def __init__(self, events: Generator[Event], lock: threading.Lock) -> None:
        self._events, self._lock = events, lock

    def __next__(self) -> Event:
        with self._lock:
            return next(self._events)

    def close(self) -> None:
        """End the request where it is."""
        with self._lock:
            self._events.close()


def _finished(events: Iterator[Event], watch: Stopwatch) -> Generator[Event]:
    yield from events
    yield Finished(
        timings_ms=watch.timings_ms(),
        step_ends_ms=tuple(watch.step_ends_ms),
        passes=tuple(watch.passes),
    )
