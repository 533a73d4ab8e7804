"""janus_edge.h by ctypes: what drives the conformance tests. Images and arrays are copied out of
every event."""

from __future__ import annotations

import ctypes as c
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

OK, DONE, CANCELLED = 0, 1, 2
E_ARGUMENT, E_BUNDLE, E_RUNTIME, E_MEMORY, E_ABI, E_DEVICE, E_IMAGE, E_OUTPUT = range(-1, -9, -1)
DRAW, ASK = 0, 1
PROGRESS, TEXT, PREVIEW, IMAGE = range(4)
Log = c.CFUNCTYPE(None, c.c_void_p, c.c_int32, c.c_char_p)


class Image(c.Structure):
    _fields_ = (
        ("pixels", c.POINTER(c.c_uint8)),
        *((name, c.c_int32) for name in ("width", "height", "stride", "channels")),
    )


class Options(c.Structure):
    _fields_ = (
        ("size", c.c_uint32),
        ("num_threads", c.c_int32),
        ("onnxruntime", c.c_char_p),
        ("device", c.c_char_p),
        ("check_all", c.c_int32),
        ("context_mb", c.c_int32),
        ("log", Log),
        ("log_context", c.c_void_p),
    )


class Info(c.Structure):
    _fields_ = (
        ("size", c.c_uint32),
        *(
            (name, c.c_int32)
            for name in ("image_size", "num_codes", "max_length", "uses_cpu_kernels")
        ),
        ("num_components", c.c_int32),
        *((name, c.c_char_p) for name in ("name", "family", "sha256", "device", "onnxruntime")),
    )


class Turn(c.Structure):
    _fields_ = (("message", c.c_char_p), ("answer", c.c_char_p), ("num_images", c.c_size_t))


class Request(c.Structure):
    _fields_ = (
        ("size", c.c_uint32),
        ("task", c.c_int32),
        ("prompt", c.c_char_p),
        ("seed", c.c_uint64),
        ("temperature", c.c_double),
        ("top_p", c.c_double),
        ("more_prompts", c.POINTER(c.c_char_p)),
        ("num_more_prompts", c.c_size_t),
        *((name, c.c_int32) for name in ("num_images", "previews", "reference", "top_k")),
        ("guidance_scale", c.c_double),
        ("num_steps", c.c_int32),
        ("parallel", c.c_int32),
        ("solver", c.c_char_p),
        *((name, c.c_double) for name in ("shift", "guidance_start", "guidance_end")),
        ("input_images", c.POINTER(Image)),
        ("num_input_images", c.c_size_t),
        ("history", c.POINTER(Turn)),
        ("num_history", c.c_size_t),
        ("max_tokens", c.c_int32),
        ("window", c.c_int32),
    )


class RawEvent(c.Structure):
    _fields_ = (
        ("size", c.c_uint32),
        ("kind", c.c_int32),
        ("elapsed_ms", c.c_double),
        ("done", c.c_int64),
        ("total", c.c_int64),
        ("unit", c.c_char_p),
        ("text", c.POINTER(c.c_char)),
        ("text_length", c.c_size_t),
        ("index", c.c_int64),
        ("seed", c.c_uint64),
        ("image", Image),
        ("codes", c.POINTER(c.c_int32)),
        ("num_codes", c.c_size_t),
        ("latent", c.POINTER(c.c_float)),
        ("num_latent", c.c_size_t),
        ("approximate", c.c_int32),
    )


STRUCTS = {"je_image": Image, "je_options": Options, "je_info": Info, "je_turn": Turn}
STRUCTS |= {"je_request": Request, "je_event": RawEvent}


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event, with arrays of its own."""

    kind: int
    elapsed_ms: float
    done: int
    total: int
    unit: str | None
    text: bytes
    index: int
    seed: int
    pixels: np.ndarray | None  # (H, W, 3)
    codes: np.ndarray  # (N,)
    latent: np.ndarray
    approximate: bool


class ApiError(Exception):
    """A negative status, with its line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


def onnxruntime_library() -> Path:
    """The file that Python's own package is built from."""
    (found,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    return found


def image(pixels: np.ndarray) -> Image:
    """(H, W), (H, W, 3) or (H, W, 4) uint8; the array must live on."""
    assert pixels.flags.c_contiguous and pixels.dtype == np.uint8
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    at = pixels.ctypes.data_as(c.POINTER(c.c_uint8))
    return Image(at, pixels.shape[1], pixels.shape[0], pixels.strides[0], channels)


def array(image: Image) -> np.ndarray:
    """A copy (H, W, channels)."""
    size = image.stride * image.height
    rows = np.ctypeslib.as_array(image.pixels, (size,)).reshape(image.height, image.stride)
    return rows[:, : image.width * image.channels].reshape(image.height, image.width, -1).copy()


class Api:
    """The library. Every call may raise ApiError."""

    def __init__(self, library: Path) -> None:
        self.je = c.CDLL(str(library))
        for name in ("je_error", "je_version"):
            getattr(self.je, name).restype = c.c_char_p
        self.je.je_tokenize.argtypes = (
            *(c.c_void_p, c.c_char_p, c.c_void_p, c.c_size_t, c.POINTER(c.c_size_t)),
        )
        for name in ("je_session_close", "je_job_cancel", "je_job_free"):
            getattr(self.je, name).argtypes = (c.c_void_p,)
            getattr(self.je, name).restype = None
        self.je.je_job_next.argtypes = (c.c_void_p, c.c_void_p)
        self.je.je_session_info.argtypes = (c.c_void_p, c.c_void_p)
        self.je.je_job_start.argtypes = (c.c_void_p, c.c_void_p, c.c_void_p)

    def check(self, status: int) -> int:
        if status < 0:
            raise ApiError(status, self.je.je_error().decode())
        return status

    @contextmanager
    def session(self, bundle: Path | str, log: Any = None, **options: Any) -> Iterator[c.c_void_p]:
        given, made = Options(), c.c_void_p()
        self.je.je_options_init(c.byref(given), c.sizeof(given))
        given.onnxruntime = str(onnxruntime_library()).encode()
        given.num_threads = 1
        if log is not None:
            given.log = log
        for name, value in options.items():
            setattr(given, name, value)
        opened = self.je.je_session_open(str(bundle).encode(), c.byref(given), c.byref(made))
        self.check(opened)
        try:
            yield made
        finally:
            self.je.je_session_close(made)

    def info(self, session: c.c_void_p) -> Info:
        found = Info(size=c.sizeof(Info))
        self.check(self.je.je_session_info(session, c.byref(found)))
        return found

    def tokenize(self, session: c.c_void_p, text: bytes, capacity: int = 4096) -> list[int]:
        ids, count = (c.c_uint32 * capacity)(), c.c_size_t()
        self.check(self.je.je_tokenize(session, text, ids, capacity, c.byref(count)))
        return ids[: min(capacity, count.value)]

    def request(self, **settings: Any) -> Request:
        """By names of je_request: more_prompts, input_images (arrays) and history (message, answer,
        number of images) as lists, whose number follows."""
        made = Request()
        self.je.je_request_init(c.byref(made), c.sizeof(made))
        assert math.isnan(made.guidance_scale) and made.top_k == -1
        lists: dict[str, Any] = {
            "more_prompts": lambda each: each,
            "input_images": image,
            "history": lambda each: Turn(*each),
        }
        kinds: dict[str, Any] = {"more_prompts": c.c_char_p, "input_images": Image, "history": Turn}
        for name, value in settings.items():
            if name not in lists:
                setattr(made, name, value)
                continue
            items = (kinds[name] * len(value))(*map(lists[name], value))
            setattr(made, name, c.cast(items, dict(Request._fields_)[name]))
            setattr(made, f"num_{name}", len(value))
            made.__dict__[f"_{name}"] = items, value  # which the struct only points to
        return made

    @contextmanager
    def job(self, session: c.c_void_p, **settings: Any) -> Iterator[c.c_void_p]:
        made, given = c.c_void_p(), self.request(**settings)
        self.check(self.je.je_job_start(session, c.byref(given), c.byref(made)))
        try:
            yield made
        finally:
            self.je.je_job_free(made)

    def next(self, job: c.c_void_p) -> tuple[int, Event]:
        raw = RawEvent(size=c.sizeof(RawEvent))
        status = self.check(self.je.je_job_next(job, c.byref(raw)))
        return status, Event(
            kind=raw.kind,
            elapsed_ms=raw.elapsed_ms,
            done=raw.done,
            total=raw.total,
            unit=raw.unit and raw.unit.decode(),
            text=raw.text[: raw.text_length] if raw.text_length else b"",
            index=raw.index,
            seed=raw.seed,
            pixels=array(raw.image) if raw.image.pixels else None,
            codes=np.array(raw.codes[: raw.num_codes] if raw.num_codes else []),
            latent=np.array(raw.latent[: raw.num_latent] if raw.num_latent else [], np.float32),
            approximate=bool(raw.approximate),
        )

    def events(self, session: c.c_void_p, **settings: Any) -> list[Event]:
        """All of a request."""
        found = []
        with self.job(session, **settings) as job:
            while True:
                status, event = self.next(job)
                if status != OK:
                    assert status == DONE
                    return found
                found.append(event)

    def draw(self, session: c.c_void_p, **settings: Any) -> list[Event]:
        """The finished images."""
        return [e for e in self.events(session, task=DRAW, **settings) if e.kind == IMAGE]

    def ask(self, session: c.c_void_p, **settings: Any) -> bytes:
        """The whole answer."""
        return b"".join(e.text for e in self.events(session, task=ASK, **settings))
