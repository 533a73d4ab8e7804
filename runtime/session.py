"""A session: an open bundle with its engines. Requests in, events out; the one path to pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image as PilImage

from janus_edge.runtime import image as images
from janus_edge.runtime.backends import Engine, load_engine
from janus_edge.runtime.bundle import Bundle
from janus_edge.runtime.decode import Decoder, Settings, decode_codes, decode_text
from janus_edge.runtime.errors import OptionError, PromptError
from janus_edge.runtime.events import Event, Finished, Image, Preview, Progress, Text
from janus_edge.runtime.prompt import Turn
from janus_edge.runtime.timing import Stopwatch

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """Draw ``num_images`` pictures of each prompt; the i-th has seed ``seed + i``. None: the
    bundle's default.

    previews: yield a Preview after each row of codes. Raises OptionError for values out of range.
    """

    prompt: str | tuple[str, ...]
    num_images: int = 1
    seed: int = 0
    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    previews: bool = False

    @property
    def prompts(self) -> tuple[str, ...]:
        """One or several, in the order of their pictures."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt

    def __post_init__(self) -> None:
        """Refuse what no loop could run."""
        _in_range("number of prompts", len(self.prompts), 1, 1024)
        _in_range("num_images", self.num_images, 1, 1024)
        _in_range("seed", self.seed, 0, MAX_SEED - self.num_images)
        _in_range("guidance_scale", self.guidance_scale, 0, 100)
        _in_range("temperature", self.temperature, 0, 100)
        _in_range("top_k", self.top_k, 0, 2**31)
        _in_range("top_p", self.top_p, 1e-6, 1)


@dataclass(frozen=True)
class _Job:
    """One picture to draw."""

    index: int
    seed: int
    ids_T: np.ndarray


@dataclass(frozen=True, kw_only=True)
class AskRequest:
    """A question about some pictures, or none. temperature 0 takes the likeliest token each time.

    images: of all turns, in order. history: what was asked and answered before.
    """

    question: str
    images: tuple[PilImage.Image, ...] = ()
    history: tuple[Turn, ...] = ()
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no loop could run."""
        if any(turn.answer is None for turn in self.history):
            raise OptionError("a turn of the history has no answer; ask its question first")
        _in_range("number of images", len(self.images), self._images_before, 1024)
        _in_range("max_tokens", self.max_tokens, 1, 2**31)
        _in_range("temperature", self.temperature, 0, 100)
        _in_range("top_p", self.top_p, 1e-6, 1)
        _in_range("seed", self.seed, 0, MAX_SEED)

    @property
    def _images_before(self) -> int:
        return sum(turn.num_images for turn in self.history)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The history and the question, which is about the pictures that are left."""
        left = len(self.images) - self._images_before
        return (*self.history, Turn(message=self.question, num_images=left))


class Session:
    """Runs requests on one bundle. Engines open when first needed. Not for several threads."""

    def __init__(self, bundle: Bundle, *, num_threads: int = 0) -> None:
        """num_threads: of the engines; 0 lets the backend choose."""
        self.bundle = bundle
        self._sizes, self._encoder = bundle.manifest.sizes, bundle.encoder
        self._num_threads = num_threads
        self._engines: dict[str, Engine] = {}

    def image_settings(self, request: ImageRequest) -> Settings:
        """The request's sampling settings, the bundle's where it names none."""
        chosen = {
            name: default if (asked := getattr(request, name)) is None else asked
            for name, default in self.bundle.manifest.sampling.model_dump().items()
        }
        return Settings(**chosen)

    def generate_image(self, request: ImageRequest) -> Iterator[Event]:
        """Draw: Progress (and Preview) events, an Image for each picture, Finished.

        Raises PromptError for an empty or too long prompt, before any work.
        """
        settings = self.image_settings(request)
        jobs: list[_Job] = []
        for prompt in request.prompts:
            ids_T = self._encoder.generation(prompt)
            self._check_length("prompt", ids_T, self._sizes.num_codes)
            for i in range(request.num_images):
                jobs.append(_Job(len(jobs), request.seed + i, ids_T))
        return self._draw(request, settings, jobs)

    def ask(self, request: AskRequest) -> Iterator[Event]:
        """Answer: Text events as they come, Finished.

        Raises PromptError for an empty or too long question, before any work.
        """
        ids_T = self._encoder.conversation(request.turns, self._sizes.num_image_tokens)
        self._check_length("question", ids_T, 1)
        return self._answer(request, ids_T)

    def _draw(self, request: ImageRequest, settings: Settings, jobs: list[_Job]) -> Iterator[Event]:
        watch = Stopwatch()
        rows_a_picture = 2 if settings.guided else 1
        most_rows = self.bundle.manifest.components["decoder"].profile["R"][2]
        at_once = max(1, most_rows // rows_a_picture)
        for start in range(0, len(jobs), at_once):
            batch = jobs[start : start + at_once]
            yield from self._draw_batch(settings, batch, len(jobs), request.previews, watch)
        yield Finished(timings_ms=watch.timings_ms())

    def _draw_batch(
        self,
        settings: Settings,
        jobs: list[_Job],
        num_jobs: int,
        previews: bool,
        watch: Stopwatch,
    ) -> Iterator[Event]:
        num, grid = self._sizes.num_codes, self._sizes.code_grid
        with watch.part("open"):
            steps = self._code_steps(settings, jobs)
            image_decoder = self._engine("image_decoder")
        codes_BN = np.zeros((len(jobs), num), np.int64)
        for position, codes_B in enumerate(watch.steps(steps)):
            codes_BN[:, position] = codes_B
            drawn = position + 1
            yield Progress(
                done=jobs[0].index * num + drawn * len(jobs),
                total=num_jobs * num,
                elapsed_ms=watch.elapsed_ms,
            )
            for job, codes_N in zip(jobs, codes_BN, strict=True):
                if previews and drawn % grid == 0:
                    pixels = self._preview(codes_N[:drawn])
                    yield Preview(
                        index=job.index, num_codes=drawn, pixels=pixels, elapsed_ms=watch.elapsed_ms
                    )
        for job, codes_N in zip(jobs, codes_BN, strict=True):
            with watch.part("image_decoder"):
                (picture,) = image_decoder.run({"codes": codes_N[None]})[0]
            yield Image(
                index=job.index,
                pixels=images.to_pixels(picture),
                codes=codes_N,
                seed=job.seed,
                elapsed_ms=watch.elapsed_ms,
            )

    def _code_steps(self, settings: Settings, jobs: list[_Job]) -> Iterator[np.ndarray]:
        """The decode loop of one batch: conditional rows, then unconditional ones."""
        num = self._sizes.num_codes
        rows = [job.ids_T for job in jobs]
        if settings.guided:
            rows += [self._encoder.unconditional(ids_T) for ids_T in rows]
        lengths_R = np.array([len(ids_T) for ids_T in rows])
        longest = int(lengths_R.max())
        ids_RT = np.stack([np.pad(ids_T, (0, longest - len(ids_T))) for ids_T in rows])
        head = self._engine("image_head")
        return decode_codes(
            Decoder(self._engine("decoder"), self._sizes, len(rows), longest + num),
            lambda hidden_RD: head.run({"hidden": hidden_RD})[0],
            self._code_embed,
            self._text_embed[ids_RT].astype(np.float32),
            lengths_R,
            num,
            np.array([job.seed for job in jobs], np.uint64),
            settings,
        )

    def _answer(self, request: AskRequest, ids_T: np.ndarray) -> Iterator[Event]:
        watch = Stopwatch()
        with watch.part("open"):
            encoder, aligner = self._engine("vision_encoder"), self._engine("vision_aligner")
            decoder_engine, head = self._engine("decoder"), self._engine("text_head")
        prompt_1TD = self._text_embed[ids_T][None].astype(np.float32)
        with watch.part("vision"):
            vectors = [self._see(picture, encoder, aligner) for picture in request.images]
        if vectors:
            where = ids_T == self._encoder.ids["image_placeholder"]
            prompt_1TD[0, where] = np.concatenate(vectors)
        most = min(request.max_tokens, self._sizes.max_length - len(ids_T))
        tokens = decode_text(
            Decoder(decoder_engine, self._sizes, 1, len(ids_T) + most),
            lambda hidden_RD: head.run({"hidden": hidden_RD})[0],
            self._text_embed,
            prompt_1TD,
            most,
            self._encoder.stop_ids,
            request.seed,
            Settings(temperature=request.temperature, top_p=request.top_p),
        )
        for text in self._encoder.stream(watch.steps(tokens)):
            yield Text(text=text, elapsed_ms=watch.elapsed_ms)
        yield Finished(timings_ms=watch.timings_ms())

    def _see(self, picture: PilImage.Image, encoder: Engine, aligner: Engine) -> np.ndarray:
        """The vectors (N, D) that stand for a picture."""
        pixels = images.prepare(picture, self._sizes.image_size)
        (features,) = encoder.run({"pixels": pixels})
        return aligner.run({"features": features})[0][0]

    def _preview(self, codes_N: np.ndarray) -> np.ndarray:
        """Cells of the codes drawn so far, grey where none is, at the picture's size."""
        grid = self._sizes.code_grid
        cells = np.full((grid * grid, 3), images.PADDING, np.uint8)
        cells[: len(codes_N)] = self._preview_map[codes_N].round().astype(np.uint8)
        stride = self._sizes.image_size // grid
        return cells.reshape(grid, grid, 3).repeat(stride, axis=0).repeat(stride, axis=1)

    def _check_length(self, what: str, ids_T: np.ndarray, follows: int) -> None:
        room = self._sizes.max_length - follows
        if len(ids_T) > room:
            raise PromptError(
                f"the {what} is {len(ids_T)} tokens long, the model's context has room for {room}; "
                "make it shorter"
            )

    def _engine(self, name: str) -> Engine:
        if name not in self._engines:
            component = self.bundle.manifest.components[name]
            path = self.bundle.path(name)
            self._engines[name] = load_engine(
                component.backend, path, self._num_threads, component.upcast
            )
        return self._engines[name]

    @cached_property
    def _text_embed(self) -> np.ndarray:
        return self.bundle.table("text_embed")

    @cached_property
    def _code_embed(self) -> np.ndarray:
        return self.bundle.table("code_embed")

    @cached_property
    def _preview_map(self) -> np.ndarray:
        return self.bundle.table("preview")


def _in_range(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:  # NaN is in no range
        raise OptionError(f"{name} is {value}; give a value from {least} to {most}")
