"""What is kept: the time to the first token of a second question, and prompts of several images.

    python bench/programs/context.py BUNDLE --record bench/records/context.jsonl

Each round opens the bundle anew. It asks two questions about one image and two more in a
conversation, then draws four images of one prompt. "afresh" does the same without keeping anything,
in turn.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.diagnostics.machine import describe
from janus_edge.diagnostics.records import append_record, program
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.engines import CONTEXT_MB
from janus_edge.runtime.events import Finished, Progress, Text
from janus_edge.runtime.prompt import Turn
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session

SCHEMA = "context/1"
QUESTIONS = (
    "describe the picture in detail.",
    "what is in the background?",
    "and what colour is it?",
    "how many of them are there?",
)
TOKENS = 8
Times = dict[str, float]


def ask(session: Session, question: str, history: tuple[Turn, ...]) -> tuple[str, float]:
    """Return an answer, and the time to its first token, ms."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (384, 384, 3), np.uint8)
    request = AskRequest(question=question, images=image, history=history, max_tokens=TOKENS)
    answer, finished = "", None
    for event in session.ask(request):
        if isinstance(event, Text):
            answer += event.text
        if isinstance(event, Finished):
            finished = event
    assert finished is not None
    return answer or "yes", finished.step_ends_ms[0]


def prompt_ms(session: Session, num_images: int, seed: int) -> float:
    """Return the time from a request for images to their first codes, ms."""
    request = ImageRequest(prompt=f"a red circle {seed}", num_images=num_images, seed=seed)
    first = next(session.generate_image(request))
    assert isinstance(first, Progress)
    return first.elapsed_ms


def one_round(folder: Path, threads: int, context_mb: int) -> Times:
    """Return the times of a session."""
    session = Session(open_bundle(folder), num_threads=threads, context_mb=context_mb)
    ask(session, QUESTIONS[0], ())  # opens the engines; of another session's image nothing is kept
    session = Session(open_bundle(folder), num_threads=threads, context_mb=context_mb)
    session._engines.open("decoder", "text_head", "image_head", "vision_encoder", "vision_aligner")
    answer, first = ask(session, QUESTIONS[0], ())
    _, second = ask(session, QUESTIONS[1], ())
    history: tuple[Turn, ...] = (Turn(message=QUESTIONS[0], num_images=1, answer=answer),)
    found = {"first question": first, "second question": second}
    for name, question in (("second turn", QUESTIONS[2]), ("third turn", QUESTIONS[3])):
        answer, found[name] = ask(session, question, history)
        history = (*history, Turn(message=question, answer=answer))
    for number, images in enumerate((1, 4)):
        prompt_ms(session, images, 10 + number)  # memory is there
        found[f"first codes of {images} images"] = prompt_ms(session, images, 20 + number)
    found["kept, MB"] = session._engines.kept.num_bytes / 1e6
    return found


def main() -> None:
    """Parse the command line, measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    before, cases = describe(), {"kept": CONTEXT_MB, "afresh": 0}
    found: dict[str, list[Times]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, room in cases.items():
            found[name].append(one_round(options.bundle, options.threads, room))
            print(name, found[name][-1], flush=True)
    medians: dict[str, Any] = {
        name: {key: round(statistics.median(e[key] for e in each), 2) for key in each[0]}
        for name, each in found.items()
    }
    first = medians["kept"]["first question"]
    for key, value in medians["kept"].items():
        print(f"{key}: {value}, {value / first:.3f} of the first; afresh {medians['afresh'][key]}")
    if options.record:
        append_record(options.record, {**program(SCHEMA), **before, "ms": medians})


if __name__ == "__main__":
    main()
