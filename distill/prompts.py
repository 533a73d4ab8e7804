"""What is drawn to learn from, unless a user names prompts: shapes, and things of every day."""

from __future__ import annotations

from itertools import islice, product

import numpy as np

from janus_edge.shapes.captions import caption
from janus_edge.shapes.scenes import scenes

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
    """Return prompts, half of them of the world of shapes that the small bundles know.

    Args:
        count: How many; at most MOST_PROMPTS are returned, and each is drawn with several seeds.
    """
    count = min(count, MOST_PROMPTS)
    rng = np.random.default_rng(0)
    shapes = [
        caption(scene, rng).text for scene in islice(scenes("train", held_out=False), count // 2)
    ]
    daily = [style.format(thing) for style, thing in product(_STYLES, _THINGS)]
    rng.shuffle(daily)
    return [prompt for pair in zip(shapes, daily * count, strict=False) for prompt in pair]
