"""Bundles changed at random, with the right hashes written down, each opened and used in a process
of its own that has little time and memory.

``python -m tests.mutated BUNDLE FIRST COUNT FOLDER [LIBRARY]`` prints a JSON line a case: what was
changed, and how Python, and with LIBRARY the C API, ended: "ok" and a hash of what they computed,
the name of an error, or how the process died.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import JanusEdgeError
from janus_edge.runtime.events import Image, Text
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session
from tests.sealed import copy_of, seal, seal_raw, write

MEMORY = 3 * 2**30  # bytes of addresses; an unchanged bundle takes a half
SECONDS = 30  # of the processor; an unchanged bundle takes one
PROMPT, QUESTION, SEED = "a red star", "what is it?", 5
REFUSED = ("BundleError", "DeviceError", "OptionError", "PromptError")

_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 100_000, 2**31 - 1, 2**31, 2**63, 2**64, 10**400),
    *(0.5, -0.0, 1.0, 1e-320, 1e308, "", "1", "x" * 5000, "a\0b", "\u202e\x1b[2J", "../x"),
    *("float16", "int8", "any", "tensorrt", [], {}, [[]], [0], {"a": {}}, "decoder.onnx"),
]  # fmt: skip
_TOKENS = [b"NaN", b"-Infinity", b"1e999", b"-0", b"01", b'"\\ud800"', b"\xff", b"\0", b"[" * 2000]


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((*at, key))
        if isinstance(inner, dict | list):
            found += _paths(inner, (*at, key))
    return found


def _value(manifest: dict[str, Any], rng: random.Random) -> str:
    """Change a value, leave one out, add one, or let two change places."""
    path = rng.choice(_paths(manifest))
    holder: Any = manifest
    for key in path[:-1]:
        holder = holder[key]
    old, kind = holder[path[-1]], rng.randrange(8)
    if kind == 0:
        del holder[path[-1]]
    elif kind == 1 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), old)
    elif kind == 1:
        holder["unknown"] = old
    elif kind == 2 and isinstance(old, int):
        holder[path[-1]] = rng.choice([old - 1, old + 1, old * 2, old // 2, -old])
    elif kind == 3:
        other = rng.choice(list(range(len(holder)) if isinstance(holder, list) else holder))
        holder[path[-1]], holder[other] = holder[other], old
    else:
        holder[path[-1]] = rng.choice(_VALUES)
    return f"{kind} {'.'.join(map(str, path))} = {str(holder)[:60]}"


def _mutate_values(folder: Path, rng: random.Random) -> str:
    said = [""]

    def change(manifest: dict[str, Any]) -> None:
        said[0] = "; ".join(_value(manifest, rng) for _ in range(rng.choice([1, 1, 1, 2])))

    seal(folder, change)
    return said[0]


def _bytes(raw: bytes, rng: random.Random) -> bytes:
    """Flip, cut, lengthen, blank or insert."""
    at, kind = rng.randrange(len(raw)), rng.randrange(6)
    if kind == 0:
        return raw[:at]
    if kind == 1:
        return raw + rng.randbytes(rng.randrange(1, 9))
    if kind == 2:
        return raw[:at] + bytes(min(64, len(raw) - at)) + raw[at + 64 :]
    if kind == 3:
        return raw[:at] + b"\xff" * min(16, len(raw) - at) + raw[at + 16 :]
    return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]


def _mutate_manifest(folder: Path, rng: random.Random) -> str:
    raw = (folder / "manifest.json").read_bytes()
    if rng.random() < 0.5:
        at = rng.choice([i for i, byte in enumerate(raw) if byte in b':,[{"'])
        token = rng.choice(_TOKENS)
        seal_raw(folder, raw[: at + 1] + token + raw[at + 1 :])
        return f"{token[:9]!r} at {at}"
    seal_raw(folder, _bytes(raw, rng))
    return "bytes of the manifest"


def _mutate_file(folder: Path, rng: random.Random) -> str:
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("manifest"))
    # the small ones have most to say
    names += [name for name in names if name.endswith((".npy", ".json", ".bin"))] * 4
    name, other = rng.choice(names), rng.choice(names)
    if rng.random() < 0.2:
        write(folder, name, (folder / other).read_bytes())
        seal(folder)
        return f"{other} as {name}"
    raw = (folder / name).read_bytes()
    head = raw[:200] if rng.random() < 0.5 else b""  # where numbers say how long the rest is
    write(folder, name, _bytes(head, rng) + raw[len(head) :] if head else _bytes(raw, rng))
    seal(folder)
    return f"bytes of {name}"


_KINDS: list[Callable[[Path, random.Random], str]] = [
    _mutate_values, _mutate_values, _mutate_values, _mutate_manifest, _mutate_file, _mutate_file,
]  # fmt: skip


def mutate(folder: Path, number: int) -> str:
    """Change a copy of a bundle; the same for a number each time. Return what was changed."""
    rng = random.Random(number)
    return rng.choice(_KINDS)(folder, rng)


def by_python(folder: Path) -> bytes:
    """Draw and answer; what came out."""
    session = Session(open_bundle(folder), num_threads=1, device="cpu")
    flow = {"num_steps": 2} if session.bundle.manifest.family == "janusflow" else {}
    request = ImageRequest(prompt=PROMPT, seed=SEED, previews=True, **flow)  # type: ignore[arg-type]
    drawn = [each for each in session.generate_image(request) if isinstance(each, Image)]
    said = session.ask(AskRequest(question=QUESTION, max_tokens=4))
    text = "".join(each.text for each in said if isinstance(each, Text))
    return drawn[0].pixels.tobytes() + text.encode()


def by_native(folder: Path, library: str) -> bytes:
    """The same by the C API."""
    from tests.native.capi import Api

    api = Api(Path(library))
    with api.session(folder, device=b"cpu") as session:
        flow = {"num_steps": 2} if api.info(session).family == b"janusflow" else {}
        drawn = api.draw(session, prompt=PROMPT.encode(), seed=SEED, previews=1, **flow)
        said = api.ask(session, prompt=QUESTION.encode(), max_tokens=4)
    assert drawn[0].pixels is not None
    return drawn[0].pixels.tobytes() + said


def _outcome(work: Callable[[], bytes]) -> str:
    from tests.native.capi import ApiError

    try:
        return f"ok {hashlib.sha256(work()).hexdigest()[:16]}"
    except JanusEdgeError as error:
        is_line = len(str(error).splitlines()) == 1
        return type(error).__name__ if is_line else f"lines: {error}"
    except ApiError as error:
        return f"status {error.status}"
    except BaseException as error:
        return f"unexpected {type(error).__name__}: {error}"


def apart(work: Callable[[], bytes]) -> str:
    """In a process of its own, with limits."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(20 * SECONDS)  # a wait, on a machine that is busy
            os.write(writing, _outcome(work).encode()[:4000])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    return said if status == 0 and said else f"died: {os.waitstatus_to_exitcode(status)}"


def main(name: str, first: int, count: int, folder: Path, library: str | None = None) -> None:
    """See the module's docstring."""
    for number in range(first, first + count):
        case = folder / str(number)
        copy_of(name, case)
        found = {"number": number, "changed": mutate(case, number)}
        found["python"] = apart(lambda case=case: by_python(case))
        if library is not None:
            found["native"] = apart(lambda case=case: by_native(case, library))
        print(json.dumps(found), flush=True)
        shutil.rmtree(case)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), *sys.argv[5:])
