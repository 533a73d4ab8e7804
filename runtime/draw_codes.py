"""Draw with Janus and Janus-Pro: codes one by one, then the VQ decoder. Yields events."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

from janus_edge.runtime import image as images
from janus_edge.runtime.decode import PassesByRows, Settings, code_chooser, decode_codes
from janus_edge.runtime.decoding import decoded
from janus_edge.runtime.engines import Engines
from janus_edge.runtime.errors import DeviceWarning, OptionError
from janus_edge.runtime.events import Event, Image, Preview, Progress
from janus_edge.runtime.kept import keep_row, restore
from janus_edge.runtime.overlap import decode_overlapping, most_positions, steps_of
from janus_edge.runtime.passes import check_positions, passes_for
from janus_edge.runtime.previews import preview_names, preview_of_codes
from janus_edge.runtime.requests import ImageRequest, PlannedImage
from janus_edge.runtime.sizes import CodeSizes
from janus_edge.runtime.timing import DeviceClock, Stopwatch
from janus_edge.runtime.vision import embedded

_SLOTS = 128  # by which caches on a GPU grow with prompts


def draw_codes(
    engines: Engines,
    settings: Settings,
    planned: list[PlannedImage],
    request: ImageRequest,
    watch: Stopwatch,
) -> Iterator[Event]:
    """Draw as many images at once as the decoder has rows for.

    Args:
        engines: The bundle's engines.
        settings: How codes are chosen.
        planned: The images, in order.
        request: Says how many positions a pass computes, and whether to yield a Preview after each
            row of codes.
        watch: Takes the time of each part.

    Returns:
        The events: Progress after each code, an Image for each image.

    Raises:
        OptionError: The decoder does not compute as many positions. Raised before any work.
    """
    grid, window, parallel = sizes_of(engines).code_grid, settings.window, request.parallel or 1
    if window > grid:
        raise OptionError(f"window is {window}; a row of this bundle has {grid} codes")
    check_positions(engines, "parallel", parallel, parallel)
    check_positions(engines, "window", window, most_positions(grid, window))
    return _draw_batches(engines, settings, planned, request, watch)


def sizes_of(engines: Engines) -> CodeSizes:
    """Return the sizes of a bundle that draws codes."""
    sizes = engines.bundle.manifest.sizes
    assert isinstance(sizes, CodeSizes)
    return sizes


def _draw_batches(
    engines: Engines,
    settings: Settings,
    planned: list[PlannedImage],
    request: ImageRequest,
    watch: Stopwatch,
) -> Iterator[Event]:
    """Draw the images, batch after batch."""
    rows_an_image = 2 if settings.guided else 1
    most_rows = engines.bundle.manifest.components["decoder"].profile["R"][2]
    at_once = max(1, most_rows // rows_an_image)
    for start in range(0, len(planned), at_once):
        batch = planned[start : start + at_once]
        yield from _draw_batch(engines, settings, batch, len(planned), request, watch)


def _draw_batch(
    engines: Engines,
    settings: Settings,
    planned: list[PlannedImage],
    num_planned: int,
    request: ImageRequest,
    watch: Stopwatch,
) -> Iterator[Event]:
    """Draw images whose rows fit into one batch."""
    sizes = sizes_of(engines)
    num, grid = sizes.num_codes, sizes.code_grid
    with watch.part("open"):
        engines.open("decoder", "image_head", *preview_names(engines, request.previews))
        clock, passes = DeviceClock(), _passes(engines, settings, len(planned), request.parallel)
        began_ms = watch.elapsed_ms
        steps = _code_steps(engines, settings, planned, request, clock, passes)
    codes_BN = np.zeros((len(planned), num), np.int64)
    for position, codes_B in enumerate(_kept(watch.steps(steps), passes)):
        codes_BN[:, position] = codes_B
        drawn = position + 1
        yield Progress(
            done=planned[0].index * num + drawn * len(planned),
            total=num_planned * num,
            unit="codes",
            elapsed_ms=watch.elapsed_ms,
        )
        for plan, codes_N in zip(planned, codes_BN, strict=True):
            if request.previews and drawn % grid == 0:
                pixels = preview_of_codes(engines, codes_N[:drawn])
                yield Preview(
                    index=plan.index, done=drawn, pixels=pixels, elapsed_ms=watch.elapsed_ms
                )
    if clock.ends_ms:  # a device yields codes in batches and has timed each code
        watch.step_ends_ms[-num:] = [began_ms + end for end in clock.ends_ms]
        engines.add_ms("sending", clock.sent_ms)
    watch.passes += [*clock.passes, *passes[2].done, *passes[1].done]
    yield from _decoded(engines, settings, planned, codes_BN, watch)


def _kept(steps: Iterator[np.ndarray], passes: PassesByRows) -> Iterator[np.ndarray]:
    """Pass on what a loop yields; in the end keep what its passes told."""
    try:
        yield from steps
    finally:
        for each in passes.values():
            each.keep()


def _decoded(
    engines: Engines,
    settings: Settings,
    planned: list[PlannedImage],
    codes_BN: np.ndarray,
    watch: Stopwatch,
) -> Iterator[Image]:
    """Decode the codes of images."""
    with watch.part("open"):  # opened only now: on a CPU the caches' memory is free again
        engines.open("image_decoder")
    for plan, codes_N in zip(planned, codes_BN, strict=True):
        pixels = decoded(engines, codes_N)
        watch.add("image_decoder", pixels.took_ms)
        yield Image(
            index=plan.index,
            pixels=images.to_pixels(pixels.image),
            codes=codes_N,
            seed=plan.seed,
            elapsed_ms=watch.elapsed_ms,
            approximate=settings.is_approximate,
        )


def _passes(
    engines: Engines, settings: Settings, images: int, parallel: int | None
) -> PassesByRows:
    """Return how many positions passes compute, with two rows per image and with one."""
    # rows that overlap have as many positions as they are
    chosen = 1 if settings.window else parallel
    return {rows: passes_for(engines, images * rows, "image_head", chosen) for rows in (1, 2)}


def _code_steps(
    engines: Engines,
    settings: Settings,
    planned: list[PlannedImage],
    request: ImageRequest,
    clock: DeviceClock,
    passes: PassesByRows,
) -> Iterator[np.ndarray]:
    """Return the decode loop of a batch: conditional rows, then unconditional ones.

    ``clock`` takes the times of a loop on a device.
    """
    rows = [plan.ids_T for plan in planned]
    if settings.guided:
        rows += [engines.bundle.encoder.unconditional(ids_T) for ids_T in rows]
    seeds_B = np.array([plan.seed for plan in planned], np.uint64)
    prompts, sources_R = _different(rows)
    shown = embedded(engines, prompts, request.rgb_images)
    has_loop = settings.top_p == 1.0 and not settings.is_approximate
    if engines.loops_on_gpu and has_loop:
        all_rows = [shown[source][0] for source in sources_R]
        width = (request.parallel or 1) if engines.uses_cuda_kernels else 1
        return _on_device(engines, settings, *padded(all_rows), seeds_B, clock, width)
    if engines.loops_on_gpu:
        warnings.warn(
            f"with top_p, a window or guidance_end {engines.device} waits for the host at each "
            "pass, which takes longer than without",
            DeviceWarning,
            stacklevel=2,
        )
    return _on_host(engines, settings, shown, sources_R, seeds_B, passes)


def _different(rows: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return prompts without repetition, and for each row (R,) which of them it has."""
    places: dict[bytes, int] = {}
    sources_R = np.array([places.setdefault(ids_T.tobytes(), len(places)) for ids_T in rows])
    firsts = np.unique(sources_R, return_index=True)[1]
    return [rows[first] for first in firsts], sources_R


def padded(prompts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings (R, T, D) of prompts, padded on the right, and the prompts' lengths."""
    lengths_R = np.array(list(map(len, prompts)))
    longest = int(lengths_R.max())
    padded = [np.pad(each, ((0, longest - len(each)), (0, 0))) for each in prompts]
    return np.stack(padded), lengths_R


def _on_host(
    engines: Engines,
    settings: Settings,
    prompts: list[tuple[np.ndarray, np.ndarray]],
    sources_R: np.ndarray,
    seeds_B: np.ndarray,
    passes: PassesByRows,
) -> Iterator[np.ndarray]:
    """Compute each prompt once, then draw.

    Prompts are kept where results do not depend on what is computed together.
    """
    sizes, keeps, rows = sizes_of(engines), engines.uses_cpu_kernels, len(sources_R)
    follows = sizes.num_codes + max(each.widest for each in passes.values())
    positions = min(max(len(key_T) for _, key_T in prompts) + follows, sizes.max_length)
    decoder = engines.open_decoder(rows, positions, prefill=False)
    if not decoder.is_on_host:  # its rows cannot be copied here
        prompts, sources_R = [prompts[source] for source in sources_R], np.arange(rows)
    for place, (_, key_T) in enumerate(prompts if keeps else ()):
        restore(engines.kept, decoder, place, key_T)
    hidden_UD = decoder.prefill(*padded([embeds_TD for embeds_TD, _ in prompts]))
    for place, (_, key_T) in enumerate(prompts if keeps else ()):
        keep_row(engines.kept, decoder, place, key_T)
    decoder.repeat(sources_R)
    images, table = len(seeds_B), engines.table("code_embed")
    head, hidden_RD = engines.head("image_head"), hidden_UD[sources_R]
    choose = code_chooser(head, len(table), sizes.num_codes, seeds_B, settings)
    guided = settings.num_guided(sizes.num_codes)
    if settings.guided and not decoder.is_on_host:  # it computes all rows or none
        guided = sizes.num_codes
    if settings.window == 0:
        num = sizes.num_codes
        yield from decode_codes(decoder, choose, table, hidden_RD, images, num, guided, passes)
        return
    lengths_R = np.array([len(prompts[source][1]) for source in sources_R])
    steps = steps_of(sizes.code_grid, settings.window)
    yield from decode_overlapping(
        decoder, choose, table, hidden_RD, lengths_R, images, steps, guided, passes
    )


def _on_device(
    engines: Engines,
    settings: Settings,
    prompt_RTD: np.ndarray,
    lengths_R: np.ndarray,
    seeds_B: np.ndarray,
    clock: DeviceClock,
    width: int,
) -> Iterator[np.ndarray]:
    """Run the decode loop on the GPU, without the host."""
    from janus_edge.runtime.device_codes import DeviceCodes
    from janus_edge.runtime.device_passes import DevicePasses

    sizes, rows, images = sizes_of(engines), len(lengths_R), len(seeds_B)
    drawn_from = prompt_RTD.shape[1] + sizes.num_codes
    width = max(1, min(width, sizes.max_length - drawn_from + 1))
    needed = -(-(drawn_from + width - 1) // _SLOTS) * _SLOTS
    slots = engines.bundle.manifest.cache_slots or min(needed, sizes.max_length)

    def make() -> DeviceCodes | DevicePasses:
        parts = engines.gpu(), engines.device_engine("decoder"), engines.device_engine("image_head")
        table = np.asarray(engines.table("code_embed"))
        given = *parts, sizes, engines.cache_type, slots, table, rows, images
        return DeviceCodes(*given) if width == 1 else DevicePasses(*given, width)

    with engines.reused(("codes", rows, images, slots, width), make) as loop:
        yield from loop.draw(prompt_RTD, lengths_R, seeds_B, settings, clock)
