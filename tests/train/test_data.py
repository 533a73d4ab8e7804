from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from janus_edge.model.codebook import VQTokenizer
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.shapes.questions import TOPICS
from janus_edge.shapes.scenes import scenes
from janus_edge.train.config import TINY
from janus_edge.train.data import (
    IGNORED,
    Sequences,
    _questions,
    answers,
    drawings,
    readings,
    training_scenes,
)
from janus_edge.train.stages import STAGES, Janus, embed, initialise, sequence_losses
from janus_edge.train.text import TEMPLATE, make_tokenizer
from janus_edge.train.vq import taught_codes


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder.load(make_tokenizer(456, 500).to_str(), TEMPLATE)


@pytest.fixture(scope="module")
def tokenizer() -> VQTokenizer:
    torch.manual_seed(0)
    return VQTokenizer(TINY.codebook).eval()


def batch(count: int) -> list:
    return list(islice(scenes("train", held_out=False), count))


def test_drawings_predict_each_code_from_what_came_before(
    encoder: PromptEncoder, tokenizer: VQTokenizer
) -> None:
    shown = batch(40)
    rows = drawings(shown, np.random.default_rng(0), encoder, tokenizer)
    codes = taught_codes(tokenizer, shown)
    assert rows.is_code_BT is not None
    dropped = 0
    for i in range(40):
        targets = rows.targets_BT[i][rows.targets_BT[i] != IGNORED]
        assert torch.equal(targets, codes[i])
        first = int(torch.nonzero(rows.targets_BT[i] != IGNORED)[0])
        assert rows.ids_BT[i, first] == encoder.ids["begin_of_image"]
        assert rows.is_code_BT[i, first + 1 : first + 64].all()
        assert not rows.is_code_BT[i, : first + 1].any()
        assert torch.equal(rows.ids_BT[i, first + 1 : first + 64], codes[i, :-1])
        prompt = rows.ids_BT[i, 1:first]
        dropped += bool((prompt == encoder.ids["pad"]).all())
    assert 1 <= dropped <= 10


def test_the_loss_of_answers_is_on_the_answer(encoder: PromptEncoder) -> None:
    rng = np.random.default_rng(0)
    for rows in (answers(batch(12), rng, encoder, 64, 4), readings(batch(12), rng, encoder)):
        most = 0
        for ids, targets in zip(rows.ids_BT, rows.targets_BT, strict=True):
            known = targets != IGNORED
            ends = torch.nonzero(known & (targets == encoder.ids["eos"]))[:, 0].tolist()
            starts = [i for i in torch.nonzero(known)[:, 0].tolist() if i == 0 or not known[i - 1]]
            most = max(most, len(ends))
            for start, end in zip(starts, ends, strict=True):
                assert known[start : end + 1].all()
                assert torch.equal(ids[start + 1 : end + 1], targets[start:end])  # teacher forcing
                assert encoder.decode(targets[start : end + 1].tolist()).startswith(" ")
                assert encoder.decode(ids[: start + 1].tolist()).endswith(":")
            placeholders = int((ids == encoder.ids["image_placeholder"]).sum())
            assert placeholders == (0 if rows.pixels_BCHW is None else 64)
        assert most == (1 if rows.pixels_BCHW is None else 4)


def test_questions_of_a_picture_do_not_see_each_other(encoder: PromptEncoder) -> None:
    """Three questions in one row give the logits of three rows of one question each."""
    torch.manual_seed(0)
    model = Janus(TINY).eval()
    initialise(model)
    placeholder = encoder.ids["image_placeholder"]
    rows = answers(batch(2), np.random.default_rng(3), encoder, 64, 3)
    assert rows.question_BT is not None and rows.pixels_BCHW is not None
    with torch.no_grad():
        packed = model.hidden(embed(model, rows, placeholder), rows.positions_BT, rows.mask())
        for b in range(2):
            for number in (1, 2, 3):
                asked = rows.question_BT[b] == number
                kept = asked | (rows.question_BT[b] == 0) & (rows.ids_BT[b] != encoder.ids["pad"])
                alone = Sequences(
                    ids_BT=rows.ids_BT[b : b + 1, kept],
                    targets_BT=rows.targets_BT[b : b + 1, kept],
                    pixels_BCHW=rows.pixels_BCHW[b : b + 1],
                )
                hidden = model.hidden(embed(model, alone, placeholder))
                found = packed[b, asked]
                assert torch.allclose(hidden[0, -len(found) :], found, atol=1e-4)


def test_questions_differ(encoder: PromptEncoder) -> None:
    rng = np.random.default_rng(0)
    for scene in batch(20):
        texts = [q.text for q in _questions(scene, rng, 12, TOPICS)]
        assert len(set(texts)) == len(texts) >= 6


def test_drawings_of_relations(encoder: PromptEncoder, tokenizer: VQTokenizer) -> None:
    pairs = training_scenes(5, 0, 20, kinds=("pair",))
    rows = drawings(pairs, np.random.default_rng(0), encoder, tokenizer, "position")
    assert rows.is_code_BT is not None
    relations = {"left", "right", "above", "below", "over", "under"}
    texts = [
        encoder.tokenizer.decode(ids[~is_code].tolist()).split()
        for ids, is_code in zip(rows.ids_BT, rows.is_code_BT, strict=True)
    ]
    said = [bool(relations & set(words)) for words in texts]
    assert said.count(True) >= 15  # all but the tenth that is dropped


def test_codes_and_pictures_take_their_places(
    encoder: PromptEncoder, tokenizer: VQTokenizer
) -> None:
    torch.manual_seed(0)
    model = Janus(TINY).eval()
    initialise(model)
    rng, placeholder = np.random.default_rng(0), encoder.ids["image_placeholder"]
    rows = drawings(batch(3), rng, encoder, tokenizer)
    assert rows.is_code_BT is not None
    x = embed(model, rows, placeholder)
    assert torch.allclose(x[rows.is_code_BT], model.embed_codes(rows.ids_BT[rows.is_code_BT]))
    rows = answers(batch(3), rng, encoder, 64, 2)
    assert rows.pixels_BCHW is not None
    x = embed(model, rows, placeholder)
    seen = x[rows.ids_BT == placeholder].view(3, 64, -1)
    assert torch.allclose(seen, model.embed_images(rows.pixels_BCHW), atol=1e-6)
    losses, part = sequence_losses(model, rows, placeholder)
    targets = rows.targets_BT[rows.targets_BT != IGNORED]
    ends = torch.nonzero(targets == encoder.ids["eos"])[:, 0]
    assert torch.equal(part[ends], torch.arange(len(ends)))
    assert torch.equal((part[1:] != part[:-1]).nonzero()[:, 0], ends[:-1])
    assert 3 < losses.mean().item() < 12  # about ln 456 for a model that knows nothing


def test_stages_follow_the_papers() -> None:
    """But for the look-ups, which are taught between the first and the second."""
    papers = [stage for stage in STAGES if stage.name.startswith("stage")]
    ratios = [tuple(n / sum(stage.mixture) for n in stage.mixture) for stage in papers]
    assert ratios == [(0.25, 0, 0.75), (0.2, 0.3, 0.5), (0.5, 0.1, 0.4)]
    for stage in STAGES:
        assert sum(stage.mixture) == stage.batch_size
        assert not any("gen_vision_model" in prefix for prefix in stage.trainable)
    trains = [
        [part in stage.trainable for part in ("aligner.", "language_model.", "vision_model.")]
        for stage in papers
    ]
    assert trains == [[True, False, False], [True, True, False], [True] * 3]
    look_ups = [stage for stage in STAGES if stage not in papers]
    assert STAGES[1:-2] == tuple(look_ups)
    assert {stage.topics[0] for stage in look_ups} == {"shape", "existence", "place", "position"}
    assert len({stage.number for stage in STAGES}) == len(STAGES)  # no two see the same scenes


def test_steps_share_no_scene() -> None:
    size = STAGES[-1].batch_size
    first, second = training_scenes(2, 0, size), training_scenes(2, 1, size)
    assert not set(first) & set(second)
    assert first == training_scenes(2, 0, size)
    assert not any(scene.held_out for scene in first + second)


def test_questions_of_some_topics() -> None:
    rng = np.random.default_rng(0)
    for scene in training_scenes(5, 3, 30, kinds=("pair",)):
        assert scene.kind == "pair"
        asked = _questions(scene, rng, 4, ("shape", "position"))
        assert {q.topic for q in asked} <= {"shape", "position"} and asked
    (single,) = training_scenes(5, 3, 1, kinds=("single",))
    (asked,) = _questions(single, rng, 4, ("position",))  # one thing has no place beside another
    assert asked.topic != "position"
