"""Draw and ask by the C API and by Python with a bundle's GPU kernels.

    LD_LIBRARY_PATH=STUB python -m tests.native.cuda_session LIBRARY BUNDLE REQUESTS

REQUESTS is a list in JSON. Each line of output is a request's result by C and by Python, which are
to be equal, how many captured passes C launched on the stub (-1 on a GPU), and whether it said that
the GPU waits for the host. The stub of libcuda calls back here for the kernels' arithmetic, and the
last line names those that C launched; without it, a GPU computes them. ``test_cuda.py`` runs this.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.engines import Engines
from janus_edge.runtime.errors import DeviceWarning
from janus_edge.runtime.events import Image, Text
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session
from tests.native.capi import DRAW, IMAGE, OK, Api, ApiError, Log
from tests.native.conftest import as_image
from tests.native.test_conformance import _c
from tests.runtime.stub_session import Stub


def shown() -> np.ndarray:
    """An image to ask about."""
    return np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)


def by_c(api: Api, session: Any, request: dict[str, Any]) -> list[str]:
    if "amid" in request:  # another one's drawing, after some of its events
        with api.job(session, task=DRAW, **_c(request["amid"])) as job:
            for _ in range(6):
                api.next(job)
            inner, outer = by_c(api, session, request["drawn"]), []
            while (step := api.next(job))[0] == OK:
                outer += [digest(step[1].codes)] if step[1].kind == IMAGE else []
        return outer + inner
    if "question" in request:
        asked = request["question"].encode()
        return [api.ask(session, prompt=asked, input_images=[shown()], max_tokens=5).decode()]
    events = api.draw(session, **_c(request))
    return [digest(each.codes if len(each.codes) else each.latent) for each in events]


def by_python(session: Session, request: dict[str, Any]) -> list[str]:
    if "amid" in request:
        return [each for one in request.values() for each in by_python(session, one)]
    if "question" in request:
        asked = AskRequest(**request, images=(as_image(shown()),), max_tokens=5)
        return ["".join(e.text for e in session.ask(asked) if isinstance(e, Text))]
    events = session.generate_image(ImageRequest(**request))
    images = [event for event in events if isinstance(event, Image)]
    return [digest(each.latent.flatten() if each.codes is None else each.codes) for each in images]


def graphs_of(stub: Stub | None) -> int:
    """Return how many captured graphs were launched so far."""
    return 0 if stub is None else int(stub.library.stub_graph_launches())


def digest(numbers: np.ndarray) -> str:
    kind = np.float32 if numbers.dtype.kind == "f" else np.int32
    return hashlib.sha256(numbers.astype(kind).tobytes()).hexdigest()[:16]


def main(library: Path, folder: Path, requests: list[dict[str, Any]]) -> None:
    """Print a line for each request; "error" with a status and a line where C fails."""
    bundle, api = open_bundle(folder), Api(library)
    stub = Stub(bundle) if Stub.is_here() else None
    launched_by_c: set[str] = set()
    said: list[str] = []
    log = Log(lambda _context, _level, line: said.append(line.decode()))
    if stub is not None:
        stub.is_unsound = "CUDA_SESSION_UNSOUND" in os.environ
    if "STUB_FAILS" in os.environ:  # Python's own loop stops where a captured launch fails
        Engines.loops_on_gpu = False  # type: ignore[assignment, method-assign]
    warnings.simplefilter("ignore", DeviceWarning)
    try:
        device = os.environ.get("CUDA_SESSION_DEVICE", "auto").encode()
        with api.session(folder, log=log, device=device) as session:
            assert api.info(session).device == b"cuda:0"
            for request in requests:
                said.clear()
                ours, before = Session(bundle, device="cuda"), graphs_of(stub)
                if stub is not None:
                    stub.launched.clear()
                found = by_c(api, session, request)
                launched_by_c |= stub.launched if stub is not None else set()
                launched = graphs_of(stub) - before if stub else -1
                waits = any("waits for the host" in line for line in said)
                print(json.dumps([found, by_python(ours, request), launched, waits]))
    except ApiError as error:
        print(json.dumps(["error", error.status, str(error)]))
    if stub is not None:
        assert not stub.failed, stub.failed[0]
        print(" ".join(sorted(launched_by_c)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
