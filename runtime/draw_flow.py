"""Draw with JanusFlow: a latent along its velocity field, then the VAE's decoder. Yields events.

Attention is causal, so a prompt's keys and values are the same in every step and for every image:
they are computed once. The unconditional row has seen only the first token of the prompt. Rows run
one after the other: with hundreds of positions each, a batch would gain nothing.

Shapes: Z latent channels, H, W latent cells, N latent tokens, T their positions (t's vector and N),
D width, R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PilImage

from janus_edge.runtime import image as images
from janus_edge.runtime.engines import Engines
from janus_edge.runtime.events import Event, Image, Preview, Progress
from janus_edge.runtime.flow import MULTISTEP_WEIGHTS, FlowSettings, Step, Velocity, integrate
from janus_edge.runtime.kept import restore
from janus_edge.runtime.previews import preview_names, preview_of_latent
from janus_edge.runtime.requests import ImageRequest, PlannedImage
from janus_edge.runtime.sampling import STREAMS, guide, normal
from janus_edge.runtime.sizes import FlowSizes
from janus_edge.runtime.timing import DeviceClock, Stopwatch
from janus_edge.runtime.vision import embedded

if TYPE_CHECKING:
    from janus_edge.runtime.device_flow import DeviceFlow

Steps = Callable[[np.ndarray], Iterator[Step]]
"""From noise (1, Z, H, W) to the flow's steps."""


def draw_flow(
    engines: Engines,
    settings: FlowSettings,
    planned: list[PlannedImage],
    request: ImageRequest,
    watch: Stopwatch,
) -> Iterator[Event]:
    """Draw one image after the other; images of one prompt share its KV cache.

    Args:
        engines: The bundle's engines.
        settings: How the latents are drawn.
        planned: The images, in order; those of one prompt follow each other.
        request: Says whether to yield a Preview after each step.
        watch: Takes the time of each part.

    Yields:
        Progress after each step, an Image for each image.
    """
    total = len(planned) * settings.num_steps
    with watch.part("open"):
        names = *engines.decoder_names(steps=False), "flow_encoder", "flow_decoder"
        engines.open(*names, *preview_names(engines, request.previews))
    with _flows(engines, settings, request) as flow_of:
        for _, same in groupby(planned, key=lambda plan: plan.ids_T.tobytes()):
            of_prompt = list(same)
            with watch.part("prefill"):
                steps_of = flow_of(of_prompt[0].ids_T)
            yield from _draw_prompt(
                engines, settings, of_prompt, steps_of, total, request.previews, watch
            )


def _draw_prompt(
    engines: Engines,
    settings: FlowSettings,
    planned: list[PlannedImage],
    steps_of: Steps,
    total: int,
    previews: bool,
    watch: Stopwatch,
) -> Iterator[Event]:
    """Draw the images of one prompt."""
    for plan in planned:
        noise = normal(np.array([plan.seed]), sizes_of(engines).latent_shape, STREAMS["latent"])
        z = noise
        for step in watch.each(steps_of(noise), "flow"):
            z = step.z
            done = plan.index * settings.num_steps + step.done
            yield Progress(done=done, total=total, unit="steps", elapsed_ms=watch.elapsed_ms)
            if previews:
                yield Preview(
                    index=plan.index,
                    done=step.done,
                    pixels=preview_of_latent(engines, step.denoised[0]),
                    elapsed_ms=watch.elapsed_ms,
                )
        with watch.part("open"):
            image_decoder = engines["image_decoder"]
        with watch.part("image_decoder"):
            (image,) = image_decoder.run({"latent": z})[0]
        yield Image(
            index=plan.index,
            pixels=images.to_pixels(image),
            latent=z[0],
            seed=plan.seed,
            elapsed_ms=watch.elapsed_ms,
        )


@contextmanager
def _flows(
    engines: Engines, settings: FlowSettings, request: ImageRequest
) -> Iterator[Callable[[np.ndarray], Steps]]:
    """Yield a function from a prompt's ids (T,) to its flow, on the GPU where the GPU runs it."""
    if not (engines.loops_on_gpu and settings.solver in MULTISTEP_WEIGHTS):
        yield lambda ids_T: _on_host(engines, ids_T, settings, request)
        return
    with engines.reused("flow", lambda: _device_flow(engines)) as flow:

        def flow_of(ids_T: np.ndarray) -> Steps:
            ((embeds_TD, _),) = embedded(engines, [ids_T[:-1]], request.rgb_images)
            flow.begin(embeds_TD, settings)
            return steps

        def steps(noise: np.ndarray) -> Iterator[Step]:
            clock = DeviceClock()
            yield from flow.draw(noise, request.previews, clock)
            engines.add_ms("sending", clock.sent_ms)

        yield flow_of


def _on_host(
    engines: Engines, ids_T: np.ndarray, settings: FlowSettings, request: ImageRequest
) -> Steps:
    velocity = velocity_of(engines, ids_T, settings.guidance_scale, request.rgb_images)
    return lambda noise: integrate(velocity, noise, settings)


def _device_flow(engines: Engines) -> DeviceFlow:
    from janus_edge.runtime.device_flow import DeviceFlow, FlowEngines

    manifest = engines.bundle.manifest
    outputs = {each.name: each.shape for each in manifest.components["flow_encoder"].outputs}
    parts = FlowEngines(
        encoder=engines.device_engine("flow_encoder"),
        decoder=engines.device_engine("decoder"),
        velocity=engines.device_engine("flow_decoder"),
        skip_shape=tuple(int(size) for size in outputs["skip"][1:]),
    )
    return DeviceFlow(engines.gpu(), parts, sizes_of(engines), engines.cache_type)


def sizes_of(engines: Engines) -> FlowSizes:
    """Return the sizes of a bundle that draws by a flow."""
    sizes = engines.bundle.manifest.sizes
    assert isinstance(sizes, FlowSizes)
    return sizes


def velocity_of(
    engines: Engines,
    ids_T: np.ndarray,
    guidance_scale: float,
    shown: Sequence[PilImage.Image] = (),
) -> Velocity:
    """Return the velocity field of a prompt: a function of a latent (1, Z, H, W), t and guided.

    The prompt's last id only says that an image follows: t's vector stands in its place.

    Args:
        engines: The bundle's engines.
        ids_T: Token ids of the prompt.
        guidance_scale: Scale of classifier-free guidance.
        shown: Images of the turns before.
    """
    ((prompt_TD, key_T),) = embedded(engines, [ids_T[:-1]], shown)
    start, follows = len(key_T), sizes_of(engines).num_latent_tokens + 1
    positions_1T = start + np.arange(follows)[None]
    encoder, decoder = engines["flow_encoder"], engines["flow_decoder"]

    def row(length: int) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function from embeddings (1, T, D) after a prompt to hidden states (1, N, D)."""
        cached = engines.open_decoder(1, length + follows, steps=False)
        if engines.uses_cpu_kernels:
            restore(engines.kept, cached, 0, key_T[:length])
        cached.prefill(prompt_TD[None, :length], np.array([length]))
        return lambda embeds_1TD: cached.look_ahead(embeds_1TD, positions_1T)[:, 1:]

    conditional, unconditional = row(start), row(1)  # the latter has seen the first token alone

    def velocity(z_1ZHW: np.ndarray, t: float, guided: bool) -> np.ndarray:
        time = np.array([t], np.float32)
        tokens_1ND, time_1D, skip = encoder.run({"latent": z_1ZHW, "t": time})
        embeds_1TD = np.concatenate([time_1D[:, None], tokens_1ND], axis=1)
        rows = [conditional, unconditional] if guided else [conditional]
        hidden_RND = np.concatenate([hidden_of(embeds_1TD) for hidden_of in rows])
        feeds = {"hidden": hidden_RND, "skip": skip, "time": time_1D}
        feeds |= {name: feeds[name].repeat(len(rows), axis=0) for name in ("skip", "time")}
        (v_RZHW,) = decoder.run(feeds)
        return guide(v_RZHW[:1], v_RZHW[1:], guidance_scale) if guided else v_RZHW

    return velocity
