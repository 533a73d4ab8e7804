"""Draw with Janus and Janus-Pro: codes one by one, then the VQ decoder. Yields events."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from janus_edge.runtime import image as images
from janus_edge.runtime.backends import cpu_library
from janus_edge.runtime.decode import Settings, decode_codes
from janus_edge.runtime.engines import Engines
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Event, Image, Preview, Progress
from janus_edge.runtime.passes import WIDTHS, Passes, costs_note
from janus_edge.runtime.requests import ImageRequest, PlannedImage
from janus_edge.runtime.sizes import CodeSizes
from janus_edge.runtime.timing import DeviceClock, Stopwatch


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
    _check_parallel(engines, request.parallel)
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
        engines.open("decoder", "image_head")
        clock, passes = DeviceClock(), _passes(engines, settings, len(planned), request.parallel)
        began_ms, steps = watch.elapsed_ms, _code_steps(engines, settings, planned, clock, passes)
    codes_BN = np.zeros((len(planned), num), np.int64)
    for position, codes_B in enumerate(watch.steps(steps)):
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
                pixels = _preview(engines, codes_N[:drawn])
                yield Preview(
                    index=plan.index, done=drawn, pixels=pixels, elapsed_ms=watch.elapsed_ms
                )
    if clock.ends_ms:  # a device yields codes in batches and has timed each code
        watch.step_ends_ms[-num:] = [began_ms + end for end in clock.ends_ms]
        engines.add_ms("sending", clock.sent_ms)
    watch.passes += passes.done
    with watch.part("open"):  # opened only now: on a CPU the caches' memory is free again
        image_decoder = engines["image_decoder"]
    for plan, codes_N in zip(planned, codes_BN, strict=True):
        with watch.part("image_decoder"):
            (image,) = image_decoder.run({"codes": codes_N[None]})[0]
        yield Image(
            index=plan.index,
            pixels=images.to_pixels(image),
            codes=codes_N,
            seed=plan.seed,
            elapsed_ms=watch.elapsed_ms,
        )


def _check_parallel(engines: Engines, parallel: int | None) -> None:
    """Raise OptionError if the decoder does not compute so many positions at once."""
    if parallel is None or parallel == 1:
        return
    most = engines.bundle.manifest.components["decoder"].profile["T"][2]
    if parallel > most:
        raise OptionError(f"parallel is {parallel}; this bundle's decoder takes at most {most}")
    if engines.decoder_is_for_cpu and engines.device.kind != "cpu":
        raise OptionError(
            f"parallel is {parallel}: on {engines.device} this needs a bundle exported with "
            "--lowering portable; leave it out"
        )


def _passes(engines: Engines, settings: Settings, images: int, parallel: int | None) -> Passes:
    """Return how many positions a pass computes: so many, or with None what draws fastest.

    Where sums depend on how many positions are computed together, the clock must not choose: passes
    then have one position.
    """
    if parallel is not None or not engines.uses_cpu_kernels:
        return Passes((parallel or 1,))
    rows, kernels = images * (2 if settings.guided else 1), cpu_library.instructions() or ""
    note = costs_note(engines.bundle.sha256, kernels, engines.num_threads, rows)
    return Passes(WIDTHS, note)


def _code_steps(
    engines: Engines,
    settings: Settings,
    planned: list[PlannedImage],
    clock: DeviceClock,
    passes: Passes,
) -> Iterator[np.ndarray]:
    """Return the decode loop of a batch: conditional rows, then unconditional ones.

    ``clock`` takes the times of a loop on a device.
    """
    sizes = sizes_of(engines)
    rows = [plan.ids_T for plan in planned]
    if settings.guided:
        rows += [engines.bundle.encoder.unconditional(ids_T) for ids_T in rows]
    lengths_R = np.array([len(ids_T) for ids_T in rows])
    longest = int(lengths_R.max())
    ids_RT = np.stack([np.pad(ids_T, (0, longest - len(ids_T))) for ids_T in rows])
    prompt_RTD = engines.table("text_embed")[ids_RT].astype(np.float32)
    seeds_B = np.array([plan.seed for plan in planned], np.uint64)
    if engines.loops_on_gpu and settings.top_p == 1.0:
        return _on_device(engines, settings, prompt_RTD, lengths_R, seeds_B, clock)
    positions = longest + sizes.num_codes + passes.widest
    return decode_codes(
        engines.open_decoder(len(rows), min(positions, sizes.max_length), prefill=False),
        engines.head("image_head"),
        engines.table("code_embed"),
        prompt_RTD,
        lengths_R,
        sizes.num_codes,
        seeds_B,
        settings,
        passes,
    )


def _on_device(
    engines: Engines,
    settings: Settings,
    prompt_RTD: np.ndarray,
    lengths_R: np.ndarray,
    seeds_B: np.ndarray,
    clock: DeviceClock,
) -> Iterator[np.ndarray]:
    """Run the decode loop on the GPU, without the host."""
    from janus_edge.runtime.device_codes import DeviceCodes

    sizes, rows, images = sizes_of(engines), len(lengths_R), len(seeds_B)

    def make() -> DeviceCodes:
        return DeviceCodes(
            engines.gpu(),
            engines.tensorrt_engine("decoder"),
            engines.tensorrt_engine("image_head"),
            sizes,
            engines.bundle.manifest.cache_type,
            np.asarray(engines.table("code_embed")),
            rows,
            images,
        )

    with engines.reused(("codes", rows, images), make) as loop:
        yield from loop.draw(prompt_RTD, lengths_R, seeds_B, settings, clock)


def _preview(engines: Engines, codes_N: np.ndarray) -> np.ndarray:
    """Return the cells of the codes drawn so far, the others grey, at the image's size."""
    grid = sizes_of(engines).code_grid
    cells = np.full((grid * grid, 3), images.PADDING, np.uint8)
    cells[: len(codes_N)] = engines.table("preview")[codes_N].round().clip(0, 255)
    return images.enlarge(cells.reshape(grid, grid, 3), sizes_of(engines).image_size // grid)
