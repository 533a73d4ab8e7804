"""The test vectors that Python and native code share: what each computes for the same input.

    python -m tests.make_vectors        # writes tests/vectors/*.json anew; look at what changed

``tests/runtime/test_vectors.py`` compares them with the runtime, ``tests/native/vectors.cpp`` with
native/core. Pixels are by a formula, large results by their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from janus_edge.runtime import image as images
from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.flow import SOLVERS, FlowSettings, integrate, timestep_schedule
from janus_edge.runtime.formats import SIGNATURES, name_format
from janus_edge.runtime.prompt import PromptEncoder, PromptTemplate, Turn
from janus_edge.runtime.sampling import (
    STREAMS,
    choose,
    guide,
    gumbel,
    normal,
    philox,
    random_words,
)
from janus_edge.runtime.text import well_formed
from tests.decoding_vectors import decoding
from tests.tokens import bytewise, tiny

FOLDER = Path(__file__).parent / "vectors"
SEEDS = (0, 7, 2**40 + 7, 2**63 - 1025)
TOKENIZERS = {"tiny": tiny(), "bytes": bytewise("User")}
WORDS = ("", " ", "\u2003\u3000", "a cat", "日本", "😀 é", "User", "Us", "\n\nUser: why?", "three ")


def sampling() -> dict[str, Any]:
    """docs/sampling.md: codes, tokens, their noise and the initial noise of latents."""
    rng = np.random.default_rng(5)
    counters = [((0,) * 4, (0,) * 2), ((2**32 - 1,) * 4, (2**32 - 1,) * 2), ((1, 2, 3, 4), (5, 6))]
    noise = [(seed, position, stream) for seed in SEEDS for position, stream in ((0, 0), (575, 1))]
    return {
        "philox": [
            {
                "counter": counter,
                "key": key,
                "words": [
                    int(w) for w in philox(*(tuple(map(np.uint64, x)) for x in (counter, key)))
                ],
            }
            for counter, key in counters
        ],
        "gumbel": [_noise(*each) for each in noise],
        "normal": [
            {"seed": seed, "values": normal(np.array([seed]), (7,), STREAMS["latent"])[0].tolist()}
            for seed in SEEDS
        ],
        "guide": [
            {
                "scale": scale,
                "cond": (cond := rng.normal(0, 3, 5).astype(np.float32)).tolist(),
                "uncond": (uncond := rng.normal(0, 3, 5).astype(np.float32)).tolist(),
                "guided": guide(cond, uncond, scale).tolist(),
            }
            for scale in (0.0, 1.25, 5.0)
        ],
        "choose": list(_choices(rng)),
        "extreme": list(extremes(np.random.default_rng(8), 120)),
    }


def _noise(seed: int, position: int, stream: int) -> dict[str, Any]:
    at = np.array([seed]), np.array([position]), 9, stream
    words, noise = random_words(*at).flatten().tolist(), gumbel(*at).flatten().tolist()
    where = {"seed": seed, "position": position, "stream": stream}
    return {**where, "words": words, "noise": noise}


EXTREME_LOGITS = (0.0, -0.0, 1e-45, -1e-39, 1e30, -1e30, 1.1e30, 3.4e38, -3.4e38)
NOT_FINITE = (np.nan, np.inf, -np.inf)
EXTREME_SETTINGS: dict[str, tuple[float, ...]] = {
    "scale": (1.0, 1.0, 0.0, -0.0, 5.0, 1e-45, 100.0, 1e38),
    "temperature": (
        0.0,
        -0.0,
        1e-320,
        1e-45,
        1e-38,
        9.999999e-7,
        1e-6,
        2e-6,
        0.1,
        1.0,
        100.0,
        1e38,
    ),
    "top_k": (0, 0, 1, 2, 10, 11, 12, 2**31),
    "top_p": (1.0, 1.0, 1e-6, 5e-324, 0.5, 0.999999),
}


def extremes(rng: np.random.Generator, count: int) -> Iterator[dict[str, Any]]:
    """Guidance and choice over denormal, huge, equal, infinite and NaN numbers; chosen None:
    refused."""
    for index in range(count):
        rows = rng.normal(0, 2, (2, 11)).astype(np.float32) * rng.choice([1e-38, 1, 1e20, 1e29])
        rows = rows.astype(np.float32)
        for _ in range(rng.integers(0, 4)):
            rows[rng.integers(2), rng.integers(11)] = rng.choice(EXTREME_LOGITS)
        if index % 4 == 0:
            rows[rng.integers(2), rng.integers(11)] = rng.choice(NOT_FINITE)
        if index % 5 == 0:
            rows[:, 3:7] = rows[:, :1]
        how = {name: rng.choice(values).item() for name, values in EXTREME_SETTINGS.items()}
        how["top_k"] = int(how["top_k"])
        seed = int(rng.integers(0, 2**63 - 1))
        yield {
            "cond": list(map(_number, rows[0])),
            "uncond": list(map(_number, rows[1])),
            "seed": seed,
            "position": index,
            "chosen": _chosen(rows, seed, index, **how),
        } | how


def _number(value: np.float32) -> float | str:
    """As JSON has it, or a word."""
    return float(value) if np.isfinite(value) else str(value)


def _chosen(rows: np.ndarray, seed: int, position: int, *, scale: float, **how: Any) -> int | None:
    logits = rows[:1] if scale == 1 else guide(rows[:1], rows[1:], scale)
    seeds, positions = np.array([seed], np.uint64), np.array([position])
    noise = gumbel(seeds, positions, rows.shape[1], STREAMS["image"])[:, 0]
    try:
        return int(choose(logits, noise, **how)[0])
    except BundleError:
        return None


def _choices(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    how = [
        (0.0, 0, 1.0),
        (1.0, 0, 1.0),
        (0.7, 3, 1.0),
        (1.3, 0, 0.5),
        (2.0, 20, 0.9),
        (100.0, 1, 1.0),
    ]
    for index in range(60):
        temperature, top_k, top_p = how[index % len(how)]
        logits = rng.normal(0, 2, (1, 33)).astype(np.float32)
        logits[0, 7:9] = logits[0, 3]  # equals
        seed, position = int(rng.integers(0, 2**63 - 1)), index
        noise = gumbel(np.array([seed], np.uint64), np.array([position]), 33, STREAMS["image"])[
            :, 0
        ]
        yield {
            "logits": logits[0].tolist(),
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
            "position": position,
            "chosen": int(choose(logits, noise, temperature, top_k, top_p)[0]),
        }


def flow() -> dict[str, Any]:
    """docs/sampling.md, "Integrating the flow": its field, and others of its settings."""
    settings = [
        {"num_steps": 4, "shift": 3.0, "guidance_start": 0.2, "guidance_end": 1.0},
        {"num_steps": 1, "shift": 1.0, "guidance_start": 0.0, "guidance_end": 1.0},
        {"num_steps": 12, "shift": 1.0, "guidance_start": 0.0, "guidance_end": 0.5},
    ]
    found = []
    for solver in SOLVERS:
        for chosen in settings:
            of = FlowSettings(guidance_scale=1.5, solver=solver, **chosen)
            steps = list(integrate(_field, np.ones((1, 1, 1, 1), np.float32), of))
            found.append(
                {"solver": solver, "guidance_scale": 1.5, **chosen}
                | {"z": [float(step.z[0, 0, 0, 0]) for step in steps]}
                | {"denoised": [float(step.denoised[0, 0, 0, 0]) for step in steps]}
            )
    timesteps = [
        {"num_steps": count, "shift": shift, "times": timestep_schedule(count, shift).tolist()}
        for count, shift in ((1, 1.0), (5, 0.3), (30, 3.0))
    ]
    return {"times": timesteps, "integrate": found}


def _field(z: np.ndarray, t: float, guided: bool) -> np.ndarray:
    weight = np.float32(1.5 if guided else 1)
    return weight * (np.float32(t) - z * z)


def prompts() -> dict[str, Any]:
    """docs/prompts.md: ids of prompts and conversations, pieces of answers, what is refused."""
    found = []
    for name, text in TOKENIZERS.items():
        for template in (
            PromptTemplate(user_role="User", assistant_role="Assistant", system_prompt="Be kind."),
            PromptTemplate(user_role="<|User|>", assistant_role="<|Assistant|>", system_prompt=""),
        ):
            encoder = PromptEncoder.load(text, template)
            found.append(
                {"tokenizer": name, "template": vars(template)}
                | {"generation": [_generation(encoder, word) for word in _texts()]}
                | {"conversation": [_conversation(encoder, turns) for turns in _conversations()]}
                | {"stream": [_stream(encoder, said) for said in _texts()]}
            )
    return {"encoders": found, "utf8": list(_bytes())}


BROKEN = (
    "ff",
    "c3",
    "e282",
    "f09f98",
    "eda080",
    "edb080edb0",
    "f4908080",
    "c080",
    "80bf",
    "c3a9c3",
)


def _bytes() -> Iterator[dict[str, str]]:
    """Bytes that are no UTF-8, alone, in text and random, and what is read."""
    rng = np.random.default_rng(7)
    several = [bytes.fromhex(each) for each in BROKEN]
    several += [b"a " + each + "é日".encode() for each in several]
    several += [
        bytes(rng.choice(list(b"a\x80\xbf\xc3\xe2\xed\xf0\xf4\xff"), 12)) for _ in range(40)
    ]
    for raw in several:  # as a command line's words reach Python
        yield {"hex": raw.hex(), "text": well_formed(raw.decode("utf-8", "surrogateescape"))}


def _texts() -> list[str]:
    rng = np.random.default_rng(6)
    several = ["".join(rng.choice(WORDS, size)) for size in (2, 3, 4, 5) for _ in range(6)]
    return [
        *WORDS,
        *several,
        "  a \x85cat\t\x1f",
        "x<begin_of_image>",
        "ä<image_placeholder>ß",
        "\x00",
    ]


def _conversations() -> list[list[Turn]]:
    return [
        [Turn(message="why?", num_images=1)],
        [Turn(message=" what? ", num_images=2, answer=" a cat\n"), Turn(message="sure?")],
        [Turn(message="a", answer="\u3000")],
        [Turn(message="a", answer="b"), Turn(message="c", num_images=1)],
    ]


def _refused(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:
        return str(error).split(",")[0].split(";")[0]


def _generation(encoder: PromptEncoder, text: str) -> dict[str, Any]:
    made = _refused(lambda: encoder.generation(text).tolist())
    if isinstance(made, str):
        return {"text": text, "refused": made}
    return {
        "text": text,
        "ids": made,
        "unconditional": encoder.unconditional(np.array(made)).tolist(),
    }


def _conversation(encoder: PromptEncoder, turns: list[Turn]) -> dict[str, Any]:
    made = _refused(lambda: encoder.conversation(turns, 2).tolist())
    given = [vars(turn) for turn in turns]
    return {"turns": given, ("refused" if isinstance(made, str) else "ids"): made}


def _stream(encoder: PromptEncoder, text: str) -> dict[str, Any]:
    ids = encoder.tokenizer.encode(f" {text}", add_special_tokens=False).ids
    return {"ids": ids, "pieces": list(encoder.stream(iter(ids)))}


def pixels(width: int, height: int, channels: int, seed: int) -> np.ndarray:
    """(H, W, channels) by a formula that C++ computes as well."""
    at = np.arange(width * height * channels, dtype=np.uint64)
    mixed = (at * np.uint64(2654435761) + np.uint64(seed * 40503)) >> np.uint64(13)
    smooth = at * np.uint64(3) >> np.uint64(4)
    made = np.where(at % np.uint64(5) < 2, mixed, smooth).astype(np.uint8)
    return made.reshape(height, width, channels)


def image_arithmetic() -> dict[str, Any]:
    """docs/prompts.md, "Images": Pillow's own resizing and alpha, and what becomes of them."""
    sizes = [(1, 1, 5, 3), (7, 5, 7, 5), (64, 64, 64, 64), (100, 60, 64, 38), (61, 200, 20, 64)]
    sizes += [(3, 500, 14, 384), (640, 427, 384, 256), (17, 19, 384, 343), (900, 11, 64, 14)]
    found: dict[str, Any] = {"resize": [], "prepare": [], "rgb": [], "upright": [], "to_pixels": []}
    for seed, (width, height, to_width, to_height) in enumerate(sizes):
        image = Image.fromarray(pixels(width, height, 3, seed))
        made = images.resize(image, to_width, to_height)
        given = {"width": width, "height": height, "seed": seed}
        to = {"to_width": to_width, "to_height": to_height}
        found["resize"].append(given | to | {"sha256": _sha256(np.asarray(made))})
        side = max(to_width, to_height, 14)
        values = images.prepare(image, side)[0]
        found["prepare"].append(given | {"side": side, "sha256": _sha256(values)})
    for channels, mode in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        raw = pixels(23, 9, channels, 40)
        image = Image.fromarray(raw[..., 0] if channels == 1 else raw, mode)
        made = images.rgb(image)
        found["rgb"].append({"channels": channels, "sha256": _sha256(np.asarray(made))})
    for orientation in range(1, 9):
        image = Image.fromarray(pixels(6, 4, 3, 41))
        turned = image.transpose(images.UPRIGHT[orientation]) if orientation > 1 else image
        found["upright"].append({"orientation": orientation, "sha256": _sha256(np.asarray(turned))})
    values = np.linspace(-1.5, 1.5, 3 * 8 * 8, dtype=np.float32).reshape(3, 8, 8)
    found["to_pixels"].append({"side": 8, "values": values.flatten().tolist()})
    found["to_pixels"][0]["sha256"] = _sha256(images.to_pixels(values))
    found["formats"] = [{"hex": each.hex(), "name": name_format(each)} for each in _heads()]
    return found


def _heads() -> Iterator[bytes]:
    """First bytes of files of every format that has a name, and of others."""
    for at, signature, _ in SIGNATURES:
        head = b"RIFF".ljust(at, b"_") if at == 8 else bytes(at)
        yield head + signature + b"more"
    yield from (b"", b"\x89PNG", b"____size" + b"WEBP", b"P6 1 1", b"P7 1", b"hello", b"BM"[:1])
    yield from (b"<svg/>", b"\xef\xbb\xbf \n<SVG>", b"<?xml ?>" + b" " * 900 + b"<svg>")
    yield from (
        b"<?xml ?>" + b" " * 1100 + b"<svg>",
        b"<?xml ?><html>",
        b"<!DOCTYPE html>",
        b"<htm",
    )


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


MADE = {
    "sampling": sampling,
    "flow": flow,
    "prompts": prompts,
    "images": image_arithmetic,
    "decoding": decoding,
}


def main() -> None:
    """Write all."""
    FOLDER.mkdir(exist_ok=True)
    for name, make in MADE.items():
        text = json.dumps(make(), ensure_ascii=False, separators=(",", ":"))
        (FOLDER / f"{name}.json").write_text(
            text.replace('},{"', '},\n{"') + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
