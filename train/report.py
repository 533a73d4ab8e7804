"""What a training says: lines of ``log.jsonl``, TensorBoard, a line on the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from janus_edge.runtime.files import append_line, atomic_write
from janus_edge.runtime.image_file import save_image
from janus_edge.train.log import drop_lines_after, write_line
from janus_edge.train.states import Place
from janus_edge.train.summary import SAMPLES, SKIPPED, skipped_in
from janus_edge.train.world import World

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SHOWN_EVERY_S = 10  # between lines on the terminal
MOST_SHOWN = 20  # samples that are left out, on the terminal


class Log:
    """The log of a run. Only the leading process writes."""

    def __init__(self, folder: Path, world: World, show: Callable[[str], None]) -> None:
        """Keep where to write; nothing is written yet. Samples that are named there stay named.

        Args:
            folder: Folder of the run.
            world: The processes.
            show: Called with lines for the user.
        """
        self._path, self._folder = folder / "log.jsonl", folder
        self._leads, self._show = world.leads, show
        self._board: SummaryWriter | None = None
        self._starts: dict[str, int] = {}
        self._last_shown = 0.0
        self._skipped = skipped_in(folder)

    def begin(self, last: Place | None, stages: Mapping[str, int]) -> None:
        """Drop lines that are later than the last saved state, whose steps come again.

        Args:
            last: The last saved state; None for none.
            stages: Number of steps of each stage by name, in order.
        """
        if not self._leads:
            return
        names = list(stages)
        kept = {
            name: (stages[name] if number < last.stage else last.step)
            for number, name in enumerate(names)
            if last is not None and number <= last.stage
        }
        drop_lines_after(self._path, kept)
        total = 0
        for name in names:
            self._starts[name] = total
            total += stages[name]
        self._board = _board(self._folder / "tensorboard", sum(kept.values()))

    def line(self, values: Mapping[str, float | str]) -> None:
        """Write a line: stage, step, loss and the like."""
        if not self._leads:
            return
        words = {"stage": values["stage"], "step": values["step"]}
        rest = {k: float(v) for k, v in values.items() if k not in (*words, "seconds")}
        write_line(self._path, words, rest, float(values["seconds"]))
        stage, step = str(values["stage"]), int(values["step"])
        if self._board is not None:
            for name, value in rest.items():
                self._board.add_scalar(f"train/{name}", value, self._starts[stage] + step)
        if time.monotonic() - self._last_shown > SHOWN_EVERY_S:
            self._last_shown = time.monotonic()
            self._show(f"{stage} step {step}: loss {rest['loss']:.4f}, {values['seconds']} s")

    def skip(self, found: Mapping[str, str]) -> None:
        """Name samples that are left out, each once, in ``skipped.jsonl``; every process may.

        Args:
            found: Why, by name.
        """
        for name, reason in found.items():
            if name not in self._skipped:
                self._skipped.add(name)
                line = json.dumps({"name": name, "reason": reason}, ensure_ascii=False)
                raw = f"{line}\n".encode("utf-8", "backslashreplace")  # of names that are not UTF-8
                append_line(self._folder / SKIPPED, raw)
                if len(self._skipped) <= MOST_SHOWN:
                    self._show(f"left out: {name}: {reason}")

    def samples(
        self,
        stage: str,
        step: int,
        drawn: Mapping[str, np.ndarray],
        answers: list[dict[str, str]],
    ) -> None:
        """Keep images and answers of the model as it is, in ``samples`` and in TensorBoard.

        Args:
            stage: Name of the stage.
            step: Steps of the stage that are done.
            drawn: Images (S, S, 3) uint8 by caption.
            answers: Each with ``question``, ``answer`` and ``right``.
        """
        folder, name = self._folder / SAMPLES, f"{stage}-{step:09d}"
        folder.mkdir(exist_ok=True)
        if drawn:
            sheet = np.concatenate(list(drawn.values()), axis=1)
            save_image(sheet, folder / f"{name}.png", {})
            if self._board is not None:
                at = self._starts[stage] + step
                self._board.add_image("samples", sheet, at, dataformats="HWC")
        document = {"stage": stage, "step": step, "captions": list(drawn), "answers": answers}
        with atomic_write(folder / f"{name}.json") as part:
            text = json.dumps(document, ensure_ascii=False, indent=1)
            part.write_text(f"{text}\n", encoding="utf-8")
        right = sum(each["answer"] == each["right"] for each in answers)
        self._show(
            f"{stage} step {step}: {len(drawn)} images and {len(answers)} answers, {right} of them "
            f"right, in {folder}"
        )

    def end(self) -> None:
        """Close TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def _board(folder: Path, purge_step: int) -> SummaryWriter | None:
    """Return TensorBoard's writer; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=purge_step)
