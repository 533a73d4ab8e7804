"""The finished model: whole from all processes, in a folder that appears complete or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from janus_edge.model.janus import Janus
from janus_edge.model.weights import Model
from janus_edge.runtime.exchange import put_in_place
from janus_edge.runtime.files import PREFIX, private_folder
from janus_edge.train.adapters import merged
from janus_edge.train.engine import Run
from janus_edge.train.recipe import Recipe
from janus_edge.train.start import on_meta
from janus_edge.train.world import whole

CHECKPOINT = "checkpoint"  # the folder's name in that of the run


@contextmanager
def finished_folder(run_dir: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; in the end it takes the place of ``RUN_DIR/checkpoint``.

    Files that are there and not in the new folder are copied to it.

    Args:
        run_dir: Folder of the run.

    Raises:
        OSError: The folder cannot be written; what was there stays.
    """
    folder = run_dir / CHECKPOINT
    with private_folder(run_dir, target=CHECKPOINT) as room:
        part = room / "new"
        part.mkdir()
        yield part
        for left in part.glob(f"{PREFIX}*"):  # whose removal failed
            shutil.rmtree(left)
        for each in folder.iterdir() if folder.is_dir() else ():
            if not (part / each.name).exists() and not each.name.startswith(PREFIX):
                copy = shutil.copytree if each.is_dir() else shutil.copy2
                copy(each, part / each.name)
        put_in_place(part, folder)


def gathered(run: Run, codec: nn.Module) -> Model | None:
    """Return the whole model as it is, on the CPU, in the leading process; None in the others.

    Args:
        run: The training; all processes call this.
        codec: The codec, which the model in training does not hold.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(run.trainee, options=options)
    mean = {name: whole(value).cpu() for name, value in run.mean.items()}
    if not run.world.leads:
        return None
    weights: dict[str, Tensor] = {
        name.removeprefix("model."): value
        for name, value in (dict(state) | mean).items()
        if name.startswith("model.") and isinstance(value, Tensor)
    }
    if run.adapters_only:
        weights = merged(weights)
    return finished(run.recipe, weights, codec)


def finished(recipe: Recipe, state: dict[str, Tensor], codec: nn.Module) -> Model:
    """Return the model with trained weights and the codec that was taken out of it."""
    model = on_meta(recipe)
    name = "gen_vision_model" if isinstance(model, Janus) else "vae"
    whole_state = state | {f"{name}.{n}": v for n, v in codec.state_dict().items()}
    model.load_state_dict(whole_state, assign=True)  # without another copy of the weights
    return model.eval()
