"""Scores of a bundle in a world: images judged by their pixels, answers by their text.

An exam is a world's prompts, questions and judge. Categories of prompts come in equal numbers, as
do topics of questions; half of each are about combinations that training never showed.
"""

from __future__ import annotations

import dataclasses
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage

from janus_edge.diagnostics.records import append_record, checkout_commit
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Image, Text
from janus_edge.runtime.image_file import format_of, save_image
from janus_edge.runtime.output import check_writable
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session

SPLITS = ("train", "validation", "test")
_SHEET_COLUMNS = 12


@dataclass(frozen=True, kw_only=True)
class Exam:
    """A world to score bundles in.

    Attributes:
        schema: Schema of its records.
        model: The shipped bundle that learned this world.
        prompts: Yields, of a split, so many captions, each with whether it is held out.
        questions: The same of scenes with questions.
        render: Returns a scene's image (H, W, 3) uint8.
        judge: Returns whether an image shows what a caption asks for, by rule.
    """

    schema: str
    model: str
    prompts: Callable[[str, int], Iterator[tuple[bool, Any]]]
    questions: Callable[[str, int], Iterator[tuple[bool, Any, Any]]]
    render: Callable[[Any], np.ndarray]
    judge: Callable[[np.ndarray, Any], dict[str, bool]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One prompt or question and its outcome.

    Attributes:
        group: Category or topic.
        held_out: Whether training never showed the combination.
        right: Whether the image or the answer is right.
        language: Its language, in a world with several.
    """

    group: str
    held_out: bool
    right: bool
    language: str = ""


def draw(session: Session, request: ImageRequest) -> Image:
    """Return the one image of a request.

    Args:
        session: The open bundle.
        request: A request for one image.
    """
    (image,) = (e for e in session.generate_image(request) if isinstance(e, Image))
    return image


def answer(session: Session, image_HWC: np.ndarray, question: str) -> str:
    """Return the model's answer to a question about an image.

    Args:
        session: The open bundle.
        image_HWC: The image (H, W, 3) uint8.
        question: The question.
    """
    request = AskRequest(question=question, images=(PilImage.fromarray(image_HWC),))
    return "".join(e.text for e in session.ask(request) if isinstance(e, Text)).strip()


def is_right(said: str, wanted: str) -> bool:
    """Return whether an answer is the wanted one; small tokenizers know lower case alone."""
    return said.lower() == wanted.lower()


def run(
    exam: Exam,
    *,
    model: str | None,
    num_prompts: int,
    num_questions: int,
    split: str,
    device: str = "auto",
    settings: Mapping[str, Any],
    record: Path | None,
    sheet: Path | None,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Score a bundle, report a table and return the record.

    Args:
        exam: What is drawn, asked and judged.
        model: Folder or name of the bundle; None for the exam's.
        num_prompts: Images to draw.
        num_questions: Questions to ask.
        split: One of ``SPLITS``.
        device: Device to run on.
        settings: How images are drawn, by ImageRequest's names; None for the bundle's own.
        record: File to append the record to; None for none.
        sheet: File to write all images to; None for none.
        report: Called with each line of the table.

    Raises:
        OptionError: The split or a setting is unknown or out of range.
    """
    check_split(split)
    for path in (record, sheet):
        if path is not None:
            check_writable(path)
    if sheet is not None:
        format_of(sheet)
    session = Session(open_bundle(model or exam.model), device=device)
    chosen = session.image_settings(ImageRequest(prompt="", **settings))
    scored, images = _drawing(exam, session, split, num_prompts, settings)
    scored["answering"] = _answering(exam, session, split, num_questions)
    result = (
        _circumstances(exam, session, split) | {"settings": dataclasses.asdict(chosen)} | scored
    )
    for title, scores in scored.items():
        for line in _lines(title, scores):
            report(line)
    if record is not None:
        append_record(record, result)
    if sheet is not None:
        save_image(contact_sheet(images), sheet, {})
    return result


def _circumstances(exam: Exam, session: Session, split: str) -> dict[str, Any]:
    """Return the beginning of a record: which program, where, on what."""
    return {
        "schema": exam.schema,
        "command": f"janus-edge {shlex.join(sys.argv[1:])}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": checkout_commit(),
        "machine": f"{platform.machine()} {platform.system()}",
        "bundle": session.bundle.manifest.name,
        "bundle_sha256": session.bundle.sha256,
        "split": split,
    }


def check_split(split: str) -> None:
    """Refuse an unknown split; raise OptionError."""
    if split not in SPLITS:
        raise OptionError(f'split is "{split}"; give one of {", ".join(SPLITS)}')


def _drawing(
    exam: Exam, session: Session, split: str, count: int, settings: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[np.ndarray]]:
    """Return the scores of drawing by each rule, and the images."""
    drawn: dict[str, list[Outcome]] = {}
    images = []
    for index, (held_out, wanted) in enumerate(exam.prompts(split, count)):
        image = draw(session, ImageRequest(prompt=wanted.text, seed=index, **settings))
        for rule, right in exam.judge(image.pixels, wanted).items():
            outcome = Outcome(
                group=wanted.category,
                held_out=held_out,
                right=right,
                language=getattr(wanted, "language", ""),
            )
            drawn.setdefault(rule, []).append(outcome)
        images.append(image.pixels)
    return {rule: summary(outcomes) for rule, outcomes in drawn.items()}, images


def _answering(exam: Exam, session: Session, split: str, count: int) -> dict[str, Any]:
    """Return the scores of answering."""
    return summary(
        [
            Outcome(
                group=asked.topic,
                held_out=held_out,
                right=is_right(answer(session, exam.render(scene), asked.text), asked.answer),
                language=getattr(asked, "language", ""),
            )
            for held_out, scene, asked in exam.questions(split, count)
        ]
    )


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return each group's score, their mean, and that mean for held-out and other combinations."""
    groups = list(dict.fromkeys(outcome.group for outcome in outcomes))
    scores = {group: _mean(o.right for o in outcomes if o.group == group) for group in groups}
    overall = _mean(scores.values())
    found = {
        "count": len(outcomes),
        "overall": overall,
        "standard_error": round(sqrt(overall * (1 - overall) / len(outcomes)), 4),
        "groups": scores,
        "held_out_combinations": _mean(o.right for o in outcomes if o.held_out),
        "trained_combinations": _mean(o.right for o in outcomes if not o.held_out),
    }
    if languages := list(dict.fromkeys(o.language for o in outcomes if o.language)):
        found["languages"] = {
            language: _mean(o.right for o in outcomes if o.language == language)
            for language in languages
        }
    return found


def contact_sheet(images: list[np.ndarray]) -> np.ndarray:
    """Return the images side by side, two of each category per row, the rest filled with white."""
    white = np.full_like(images[0], 255)
    padded = images + [white] * (-len(images) % _SHEET_COLUMNS)
    rows = [padded[i : i + _SHEET_COLUMNS] for i in range(0, len(padded), _SHEET_COLUMNS)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def _mean(values: Any) -> float:
    collected = [float(value) for value in values]
    return round(sum(collected) / len(collected), 4) if collected else float("nan")


def _lines(title: str, scored: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table of scores."""
    yield f"{title}: {scored['overall']:.3f} (standard error {scored['standard_error']:.3f})"
    for group, score in scored["groups"].items():
        yield f"  {group:22} {score:.3f}"
    yield f"  held-out combinations  {scored['held_out_combinations']:.3f}"
    for language, score in scored.get("languages", {}).items():
        yield f"  {language:22} {score:.3f}"
