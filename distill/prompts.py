"""Make the prompts that are drawn to learn from, unless a user names some.

They are of both worlds of the small models, and of things of every day for the others.
"""

from __future__ import annotations

from itertools import cycle, islice, product

import numpy as np

from janus_edge.shapes import captions as shape_captions
from janus_edge.shapes import scenes as shape_scenes
from janus_edge.things import captions as thing_captions
from janus_edge.things import scenes as thing_scenes

MOST_PROMPTS = 4096
_STYLES = ("a photo of {}", "a painting of {}", "{}, close up", "a drawing of {}")
_THINGS = (
    *("a red apple", "a cat", "a dog in the grass", "a woman with a hat", "an old man", "a child"),
    *("a house by a lake", "a city street at night", "mountains at sunset", "a forest in fog"),
    *("a blue car", "a bicycle", "a ship at sea", "a cup of coffee", "a bowl of fruit"),
    *("a vase of flowers", "a bird on a branch", "a horse", "a robot", "a castle", "a beach"),
    *("a bookshelf", "a kitchen", "a slice of cake", "a butterfly", "a snowy field", "a bridge"),
)


def default_prompts(count: int) -> list[str]:
    """Return prompts, a third each of shapes, of the world of things and of the list above.

    Args:
        count: How many; at most MOST_PROMPTS are returned, and each is drawn with several seeds.
    """
    count = min(count, MOST_PROMPTS)
    rng = np.random.default_rng(0)
    shapes = (
        shape_captions.caption(scene, rng).text
        for scene in shape_scenes.scenes("train", held_out=False)
    )
    things = (
        thing_captions.caption(scene, rng, str(rng.choice(thing_captions.LANGUAGES))).text
        for scene in thing_scenes.scenes("train", held_out=False)
    )
    daily = [style.format(thing) for style, thing in product(_STYLES, _THINGS)]
    rng.shuffle(daily)
    mixed = (prompt for three in zip(shapes, things, cycle(daily)) for prompt in three)
    return list(islice(mixed, count))
