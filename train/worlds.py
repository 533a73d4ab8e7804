"""Shards of the worlds that this package draws: shapes, and everyday things.

A scene becomes an image with several captions (generation), an image with a conversation
(understanding), or a conversation about a scene told in words (text). Combinations that are held
out never come up. The same arguments write the same bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from janus_edge.data.build import SAMPLES_PER_SHARD, write_marker
from janus_edge.data.content import Content, Exchange, LabelledBox
from janus_edge.data.place import check_place, placed
from janus_edge.data.shard_writer import ShardWriter
from janus_edge.shapes import captions as shape_captions
from janus_edge.shapes import questions as shape_questions
from janus_edge.shapes import scenes as shape_scenes
from janus_edge.things import captions as thing_captions
from janus_edge.things import korean
from janus_edge.things import questions as thing_questions
from janus_edge.things import scenes as thing_scenes
from janus_edge.things.artwork import THINGS

# How many of each hundred scenes serve in a role; each role has scenes of its own.
SHARES = {"generation": 60, "understanding": 30, "text": 10}
_FIRST = {role: number << 36 for number, role in enumerate(SHARES)}  # of a role's scenes
_CAPTIONS, _QUESTIONS = 6, 4  # most per scene; with fewer questions, weights of topics count
_SINGLE = 0.5  # of the conversations have one question: several may give away each other's answers
_DESCRIBED = 0.3  # of the conversations have a description; it is long, and easily outweighs others
_ALONE = 0.25  # of the pairs that a conversation is about are one thing alone
_RESTYLED = 0.5  # of the scenes that a conversation is about are in any style, not the usual one
_LAST = "describe"  # ends a conversation that has it, as it answers most other questions


@dataclass(frozen=True)
class World:
    """A world that draws scenes and speaks about them.

    Attributes:
        scenes: Endless scenes from a number on, none of them held out.
        render: Returns a scene's image (H, W, 3) uint8.
        caption: Returns one of a scene's captions.
        question: Returns a question of a topic about a scene with its answer, or None.
        boxes: Returns what parts of a scene's image show.
        tell: Returns a scene in words, for one who does not see it.
        lesson: Returns the scene of a conversation: the same, simpler, or in another style.
        topics: Topics of questions, with weights: how soon each comes up in a conversation.
        languages: Languages of all but captions.
    """

    scenes: Callable[[int], Iterator[Any]]
    render: Callable[[Any], np.ndarray]
    caption: Callable[[Any, np.random.Generator], str]
    question: Callable[[Any, np.random.Generator, str, str], tuple[str, str] | None]
    boxes: Callable[[Any], tuple[LabelledBox, ...]]
    tell: Callable[[Any, str], str]
    lesson: Callable[[Any, np.random.Generator], Any]
    topics: dict[str, int]
    languages: tuple[str, ...]


def _shape_question(
    scene: shape_scenes.Scene, rng: np.random.Generator, _language: str, topic: str
) -> tuple[str, str] | None:
    asked = shape_questions.question(scene, rng, topic)
    return None if asked is None else (asked.text, asked.answer)


def _thing_caption(scene: thing_scenes.Scene, rng: np.random.Generator) -> str:
    language = thing_captions.LANGUAGES[int(rng.integers(2))]
    return thing_captions.caption(scene, rng, language).text


def _thing_question(
    scene: thing_scenes.Scene, rng: np.random.Generator, language: str, topic: str
) -> tuple[str, str] | None:
    asked = thing_questions.question(scene, rng, language, topic)
    return None if asked is None else (asked.text, asked.answer)


def _thing_lesson(scene: thing_scenes.Scene, rng: np.random.Generator) -> thing_scenes.Scene:
    """Return a scene, half of them in any style, and of a quarter of all pairs one thing alone.

    With the second, sides are learned before which of two things is meant (docs/log.md,
    2026-11-30).
    """
    for share, change in ((_RESTYLED, thing_scenes.restyled), (_ALONE, thing_scenes.one_of_pair)):
        changed = change(scene, rng) if rng.random() < share else scene
        scene = scene if changed.held_out else changed
    return scene


def _shape_boxes(scene: shape_scenes.Scene) -> tuple[LabelledBox, ...]:
    """Return each thing's box with its shape, and with its colour."""
    found = []
    for thing in scene.things:
        (x, y), side = thing.centre, shape_scenes.SIZES[thing.size][0] * shape_scenes.CELL
        box = (x - side / 2, y - side / 2, side, side)
        found += [LabelledBox(thing.shape, box), LabelledBox(thing.colour, box)]
    return tuple(found)


def _thing_boxes(scene: thing_scenes.Scene) -> tuple[LabelledBox, ...]:
    """Return each thing's box, and the whole image with its style and background.

    Labels say it in both languages.
    """
    whole = (0, 0, thing_scenes.IMAGE_SIZE, thing_scenes.IMAGE_SIZE)
    style, ground = korean.STYLES[scene.style][0], korean.BACKGROUNDS[scene.background][0]
    boxes = [
        LabelledBox(
            f"{THINGS[each.thing].english[0]} {THINGS[each.thing].korean[0]}",
            (each.x, each.y, each.size, each.size),
        )
        for each in scene.things
    ]
    return (
        *boxes,
        LabelledBox(f"{scene.style} style {style} 스타일", whole),
        LabelledBox(f"{scene.background} background {ground} 배경", whole),
    )


WORLDS = {
    "shapes": World(
        scenes=lambda start: shape_scenes.scenes("train", start, held_out=False),
        render=shape_scenes.render,
        caption=lambda scene, rng: shape_captions.caption(scene, rng).text,
        question=_shape_question,
        boxes=_shape_boxes,
        tell=lambda scene, _language: shape_questions.tell(scene),
        lesson=lambda scene, _rng: scene,
        topics=shape_questions.LESSONS,
        languages=("english",),
    ),
    "things": World(
        scenes=lambda start: thing_scenes.scenes("train", start, held_out=False),
        render=thing_scenes.render,
        caption=_thing_caption,
        question=_thing_question,
        boxes=_thing_boxes,
        tell=thing_questions.tell,
        lesson=_thing_lesson,
        topics=thing_questions.LESSONS,
        languages=thing_captions.LANGUAGES,
    ),
}


def write_world(
    name: str,
    out: Path,
    num_scenes: int,
    *,
    replace: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, int]:
    """Write shards of a world, a folder per role; each folder appears whole or not at all.

    Args:
        name: One of ``WORLDS``.
        out: Folder of roles, made if it is missing.
        num_scenes: Scenes of all roles together.
        replace: Whether earlier shards of ours there are replaced.
        report: Called with a line per role.

    Returns:
        Samples by role.

    Raises:
        OutputError: A folder is there, or cannot be written.
    """
    world, written = WORLDS[name], {}
    for role in SHARES:  # all places before the first role is drawn, which takes long
        check_place(out / role, replace)
    for role, share in SHARES.items():
        count = max(1, num_scenes * share // 100)
        with placed(out / role, replace) as part:
            with ShardWriter(part, SAMPLES_PER_SHARD) as writer:
                for number, scene in enumerate(islice(world.scenes(_FIRST[role]), count)):
                    writer.write(f"{number:09d}", _members(world, role, scene, number))
            write_marker(part, role, count, writer.sizes)
        written[role] = count
        report(f"{out / role}: {count} samples")
    return written


def _members(world: World, role: str, scene: Any, number: int) -> dict[str, bytes]:
    """Return a sample's members by their extension."""
    rng = np.random.default_rng((list(SHARES).index(role), number))
    if role == "understanding":
        scene = world.lesson(scene, rng)
    language = world.languages[int(rng.integers(len(world.languages)))]
    content = _content(world, role, scene, language, rng)
    members = {"json": json.dumps(content.document(), ensure_ascii=False).encode()}
    if role != "text":
        file = io.BytesIO()
        Image.fromarray(world.render(scene)).save(file, "PNG")
        members["png"] = file.getvalue()
    return members


def _content(
    world: World, role: str, scene: Any, language: str, rng: np.random.Generator
) -> Content:
    """Return what a sample says."""
    if role == "generation":
        captions = dict.fromkeys(world.caption(scene, rng) for _ in range(_CAPTIONS))
        return Content(captions=tuple(captions), boxes=world.boxes(scene))
    weights = np.array(list(world.topics.values())) / sum(world.topics.values())
    order = rng.choice(list(world.topics), len(weights), replace=False, p=weights).tolist()
    asked = (world.question(scene, rng, language, topic) for topic in order if topic != _LAST)
    most = 1 if rng.random() < _SINGLE else int(rng.integers(2, _QUESTIONS + 1))
    pairs = [pair for pair in asked if pair is not None][:most]
    if not pairs or rng.random() < _DESCRIBED:
        last = world.question(scene, rng, language, _LAST)
        assert last is not None  # every scene has a description
        pairs = [*pairs[: int(rng.integers(most))], last]
    if role == "text":  # the scene is told with the first question
        pairs[0] = (f"{world.tell(scene, language)}\n{pairs[0][0]}", pairs[0][1])
    turns = tuple(Exchange(user, assistant) for user, assistant in pairs)
    return Content(turns=turns, boxes=() if role == "text" else world.boxes(scene))
