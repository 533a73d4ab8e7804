"""Vectors of docs/decoding.md: drafts, widths of passes, overlapping rows, what is kept."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.runtime.decode import Drafts, looked_up
from janus_edge.runtime.kept import Context, Kept, image_digest, image_key
from janus_edge.runtime.overlap import steps_of
from janus_edge.runtime.passes import WIDTHS, Passes, known_passes

_BAD_DRAFTS: tuple[Any, ...] = (
    [[2.0, 4.0]],
    [[4.0, 2.0]] * 15,
    [[1, 8]] * 15,
    [[0.0, 0.0]] * 15,
    [[0.0, 1e-5]] * 15,
    [[1.0, 9.0]] * 15,
    [[1.0, 8.0, 1.0]] * 15,
    [*[[1.0, 8.0]] * 14, [8.0, 7.0]],
    "many",
)
_ROOM = 40 * (8 + 2 * 16)  # bytes; a position of a key has 8, and 16 in each of two caches


def decoding() -> dict[str, Any]:
    """Return the vectors by what they check."""
    rng = np.random.default_rng(11)
    return {
        "drafts": [_drafts(rng, *each) for each in itertools.product((1, 5, 16), (1, 2, 4, 8))],
        "looked_up": [_looked_up(rng, size) for size in (0, 1, 2, 3, 4, 6, 9, 14, 20, 40)],
        "steps": [_steps(*each) for each in ((1, 1), (2, 1), (3, 2), (4, 1), (4, 3), (5, 5))],
        "kept": [_kept(rng, room) for room in (_ROOM, 0)],
        "passes": _requests(rng),
        "images": [_image(rng.standard_normal(size, np.float32)) for size in (1, 12, 27)],
    }


def _drafts(rng: np.random.Generator, num_codes: int, widest: int) -> dict[str, Any]:
    """Passes of random widths whose codes are of two kinds, so that drafts are often right."""
    drafts, passes = Drafts.start(1, num_codes, widest), []
    while drafts.drawn_B[0] < num_codes:
        chosen = rng.integers(0, 2, (1, int(rng.integers(1, widest + 1))))
        (added,) = drafts.take(chosen).tolist()
        codes = drafts.codes_BN[0].tolist()
        passes.append({"chosen": chosen[0].tolist(), "added": added, "codes": codes})
    return {"num_codes": num_codes, "widest": widest, "passes": passes}


def _requests(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Requests whose notes follow each other, at several shares of right drafts; bad notes."""
    known: dict[str, Any] = {str(width): [5.0 + width, 6.0 + width] for width in WIDTHS}
    requests = []
    for right, images in ((0.5, 1), (0.9, 1), (0.9, 3), (0.88, 1), (0.1, 2), (0.0, 1), (0.9, 1)):
        requests.append(_request(rng, known, right, images))
        known = requests[-1]["after"]
    bad = [known | {"drafts": drafts} for drafts in _BAD_DRAFTS]
    bad.append(known | {"2": [1.0, -1.0, 2.0], "3": [1]})
    return requests + [_request(rng, note, 0.7, 1) for note in bad]


def _request(
    rng: np.random.Generator, note: dict[str, Any], right: float, images: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "note.json"
        path.write_text(json.dumps(note), encoding="utf-8")
        chosen, passes = Passes(WIDTHS, path, known_passes(path)), []
        for most in (*[1000] * 40, 9, 5, 1):
            width = chosen.begin(most)
            ok = np.cumprod(rng.random((images, width - 1)) < right, axis=1)
            accepted_B = (1 + ok.sum(1)) * (rng.random(images) < 0.9)
            took_ms = 5.0 + width + float(rng.random())
            chosen.is_alone = bool(rng.random() < 0.9)
            chosen.learn(accepted_B, took_ms)
            accepted = accepted_B.tolist()
            found = {"most": most, "width": width, "ms": took_ms, "accepted": accepted}
            passes.append(found | {"alone": chosen.is_alone})
        chosen.keep()
        after = json.loads(path.read_text(encoding="utf-8"))
        return {"before": note, "passes": passes, "after": after}


def _looked_up(rng: np.random.Generator, size: int) -> dict[str, Any]:
    ids = rng.integers(0, 3, size).tolist()
    return {"ids": ids, "drafts": [looked_up(ids, count) for count in range(6)]}


def _steps(grid: int, window: int) -> dict[str, Any]:
    steps = [
        {
            "read": step.read_T.tolist(),
            "at": step.at_T.tolist(),
            "follows": step.drawn_T.tolist(),
            "kept": step.kept,
        }
        for step in steps_of(grid, window)
    ]
    return {"grid": grid, "window": window, "steps": steps}


def _kept(rng: np.random.Generator, room: int) -> dict[str, Any]:
    """Calls of random kinds; too little room for all of them, and for a few alone."""
    kept, calls = Kept(room), []
    for _ in range(300 if room else 30):
        key = rng.integers(0, 3, int(rng.integers(1, 44 if rng.random() < 0.1 else 12))).tolist()
        number = int(rng.integers(4))
        name, floats = f"{number:064x}", (1, 40, 80, 401)[number]
        kind = ("keep", "find", "keep_image", "image")[int(rng.integers(4))]
        call: dict[str, Any] = {"call": kind}
        if kind == "keep":
            caches = [np.zeros((1, len(key), 4), np.float32)] * 2
            kept.keep(Context(np.array(key), caches))
            call |= {"key": key}
        elif kind == "find":
            found = kept.find(np.array(key))
            call |= {"key": key, "length": 0 if found is None else len(found.key_T)}
        elif kind == "keep_image":
            kept.keep_image(bytes.fromhex(name), np.zeros(floats, np.float32))
            call |= {"digest": name, "floats": floats}
        else:
            vectors = kept.image(bytes.fromhex(name))
            call |= {"digest": name, "floats": 0 if vectors is None else len(vectors)}
        calls.append(call)
    return {"room": room, "calls": calls}


def _image(pixels: np.ndarray) -> dict[str, Any]:
    digest = image_digest(pixels)
    return {"pixels": pixels.tolist(), "digest": digest.hex(), "key": image_key(digest)}
