"""The folder of a run: that it is ours, and that a run that goes on is the one that was begun."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.files import PREFIX, atomic_write
from janus_edge.train.recipe import Recipe
from janus_edge.train.world import World

RECIPE = "recipe.json"  # the recipe that the run was begun with
_FACTS = "run.json"  # what else may not change
_BEFORE = "pretraining"  # may be put into a new folder by hand (docs/training.md)
# What is said of a fact that changed.
_SAYS = {
    "data": "other data",
    "lora": "--lora {}",
    "start": "another --start, --language, --vision, --codec or --vae",
}


def claim(folder: Path, recipe: Recipe, facts: Mapping[str, str | int], world: World) -> None:
    """Note the recipe and the facts in the run's folder, or compare them with those there.

    Args:
        folder: The folder of the run, which exists.
        recipe: The recipe.
        facts: "data", the data's digest; "lora", the rank; "start", what it started from.
        world: The processes; all call this, and all raise the same.

    Raises:
        OptionError: The folder holds something else, or a run that was begun otherwise.
    """
    path, known = folder / RECIPE, folder / _FACTS
    if path.exists():
        _check_recipe(path, recipe)
        _check_facts(known, facts)
    else:
        _check_empty(folder)
    texts = {
        path: recipe.model_dump_json(indent=1) + "\n",
        known: json.dumps(facts, indent=1) + "\n",
    }
    missing = [each for each in texts if not each.exists()]
    world.wait()
    for each in missing if world.leads else ():
        with atomic_write(each) as part:
            part.write_text(texts[each], encoding="utf-8")
    world.wait()


def _check_empty(folder: Path) -> None:
    """Raise OptionError for a folder with files that no run of ours has made."""
    others = sorted(
        each.name
        for each in folder.iterdir()
        if each.name not in (_BEFORE, _FACTS) and not each.name.startswith(PREFIX)
    )
    if others:
        raise OptionError(
            f"{folder} holds {others[0]} and no run of ours; give a new folder for the run"
        )


def _check_recipe(path: Path, recipe: Recipe) -> None:
    """Raise OptionError if a file holds another recipe; missing keys stand for their defaults."""
    try:
        found = Recipe.model_validate_json(path.read_bytes()).model_dump_json()
    except ValueError:
        found = ""
    if found != recipe.model_dump_json():
        raise OptionError(
            f"{path.parent} was begun with another recipe, which its {RECIPE} holds; give another "
            "folder for the run"
        )


def _check_facts(path: Path, facts: Mapping[str, str | int]) -> None:
    """Raise OptionError if a run was begun with other facts; earlier versions noted none."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        known = None
    for name, value in facts.items() if isinstance(known, dict) else ():
        if name in known and known[name] != value:
            raise OptionError(
                f"{path.parent} was begun with {_SAYS[name].format(known.get(name))}; give the "
                "same, or another folder for the run"
            )
