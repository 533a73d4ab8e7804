"""Batches on Ray Data: the same work on many machines, with the same results (docs/batch.md).

Source: Ray Data's ``map_batches`` with a class, whose instances are actors.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from janus_edge.batch.items import Item
from janus_edge.batch.run import Outcome, outcomes
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import ImageError, OptionError
from janus_edge.runtime.session import Session

AT_ONCE = 16  # items that a worker takes together; fewer are lost with it


class JanusWorker:
    """Works through blocks of items; give it to ``Dataset.map_batches``."""

    def __init__(
        self, model: str | None = None, num_threads: int = 0, device: str = "auto"
    ) -> None:
        """Open a bundle.

        Args:
            model: Name or folder of a bundle, as this worker's machine has it.
            num_threads: Threads of the engines; 0 lets the backend choose.
            device: As for a session.
        """
        self._session = Session(open_bundle(model), num_threads=num_threads, device=device)

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Return the outcomes of a block.

        Args:
            block: "item", the JSON that ``row_of`` makes, "files", and "error", by column.

        Returns:
            "id", "values" (JSON) and "image" (bytes; empty for an answer) by column.
        """
        errors = list(block["error"])
        items = [_item(*each) for each in zip(block["item"], block["files"], strict=True)]
        sound = [item for item, error in zip(items, errors, strict=True) if not error]
        found = outcomes(self._session, sound)
        made = [Outcome({"error": error}) if error else next(found) for error in errors]
        return {
            "id": [item.name for item in items],
            "values": [json.dumps(each.values) for each in made],
            "image": [each.image or b"" for each in made],
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What ``JanusWorker`` is made with; each machine has the bundle under the same name."""

    model: str | None
    num_threads: int
    device: str


def row_of(item: Item) -> dict[str, Any]:
    """Return an item as a row of a dataset, with its images in it."""
    try:
        files, error = item.read_images(), ""
    except ImageError as failed:
        files, error = [], str(failed)
    return {
        "item": json.dumps([item.name, dict(item.values), [name for _, name in files]]),
        "files": [raw for raw, _ in files],
        "error": error,
    }


def _item(text: str, files: Sequence[bytes]) -> Item:
    name, values, names = json.loads(text)
    return Item(name, values, Path(), tuple(zip(map(bytes, files), names, strict=True)))


def outcomes_on_ray(
    items: Sequence[Item], address: str, workers: int, options: WorkerOptions
) -> Iterator[Outcome]:
    """Yield what comes of each item, in their order, from the workers of a Ray cluster.

    A worker that dies is started again, and what it had is done again.

    Args:
        items: The items.
        address: The cluster's address; "local" starts one on this machine.
        workers: How many workers; each needs a processor.
        options: What each worker is made with.

    Raises:
        OptionError: There is no cluster at the address.
    """
    if not items:  # all is done; Ray makes no dataset of nothing
        return
    import ray

    try:
        ray.init(None if address == "local" else address, log_to_driver=False)
    except Exception as error:  # of many kinds, by what is wrong with the address
        reason = str(error).strip().partition("\n")[0][:200]
        where = f"--ray {address[:100]}"
        raise OptionError(f"{where}: {reason}; give a cluster's address, or local") from None
    try:
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        blocks = -(-len(items) // AT_ONCE)
        rows = ray.data.from_items([*map(row_of, items)], override_num_blocks=blocks)
        made = rows.map_batches(
            JanusWorker,
            batch_size=AT_ONCE,
            compute=ray.data.ActorPoolStrategy(size=workers),
            fn_constructor_kwargs=dataclasses.asdict(options),
            num_cpus=1,
        )
        for row in made.iter_rows():
            yield Outcome(json.loads(row["values"]), row["image"] or None)
    finally:
        ray.shutdown()
