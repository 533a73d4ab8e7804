"""Packed rows: the same losses as one example a row."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from janus_edge.data.samples import Sample
from janus_edge.data.source import Role
from janus_edge.model.janus import Janus
from janus_edge.runtime.errors import PromptError
from janus_edge.train.codec import code_shape
from janus_edge.train.engine import share_of
from janus_edge.train.images import Encoded
from janus_edge.train.packing import pack
from janus_edge.train.pieces import CODE, IGNORED, LATENT, SEEN, Piece, answer_piece
from janus_edge.train.recipe import Recipe, load_recipe
from janus_edge.train.steps import Layout, lay_out
from tests.train.bench import RECIPES, Bench

Sums = dict[str, Tensor]


def test_packed_losses_are_those_of_single_examples(bench: Bench) -> None:
    layout = bench.layout(bench.step)
    rows = [[layout.pieces[i] for i in row] for row in layout.rows]
    assert any(len(row) > 1 for row in rows)
    packed: Sums = bench.trainee(bench.packed(rows))
    alone = [bench.trainee(bench.packed([[piece]])) for piece in layout.pieces]
    for name, value in packed.items():
        assert value.item() > 0.5
        assert value.item() == pytest.approx(sum(each[name].item() for each in alone), rel=1e-5)


def test_gradients_of_packed_rows_too(bench: Bench) -> None:
    layout = bench.layout(bench.step)
    found = []
    for rows in ([[*layout.pieces]], [[piece] for piece in layout.pieces]):
        bench.trainee.zero_grad()
        sums: Sums = bench.trainee(bench.packed(rows))
        torch.autograd.backward(torch.stack(list(sums.values())).sum())
        found.append({n: p.grad for n, p in bench.trainee.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        scale = gradient.abs().max() + 1e-3
        assert (gradient - found[1][name]).abs().max() / scale < 1e-4, name


def test_an_image_is_encoded_alike_beside_any_others(bench: Bench, tmp_path: Path) -> None:
    """A stopped run finds some images of its step encoded and others not."""
    drawing = [piece for piece in bench.layout(bench.step).pieces if piece.draws]
    assert len({piece.place for piece in drawing}) > 2
    bench.loader.encode_new(drawing)
    together = bench.loader.kept
    shape, dtype = code_shape(bench.recipe)
    alone = {
        role: Encoded(tmp_path / "alone" / role, len(each.shards), shape, dtype)
        for role, each in bench.data.items()
        if role in together
    }
    bench.loader.kept = alone
    for piece in reversed(drawing):
        bench.loader.encode_new([piece])
        role, index = piece.place
        assert np.array_equal(alone[role].get(index), together[role].get(index))
        assert np.any(alone[role].get(index))


def test_a_damaged_code_is_encoded_again(bench: Bench, tmp_path: Path) -> None:
    """After a power failure, an entry may be there in part."""
    piece = next(piece for piece in bench.layout(bench.step).pieces if piece.draws)
    bench.loader.encode_new([piece])
    role, index = piece.place
    encoded = bench.loader.kept[role]
    entry = encoded.get(index)
    file, size = np.memmap(tmp_path / role, np.uint8, "r+"), entry.nbytes
    file[index * size : (index + 1) * size] = 0
    assert not encoded.has(index) and len(encoded.first(9)) == 0
    bench.loader.encode_new([piece])
    assert np.array_equal(encoded.get(index), entry) and encoded.has(index)
    assert np.array_equal(encoded.first(9), entry[None])


class _One:
    """A role of one sample."""

    def __init__(self, role: Role) -> None:
        self.role = role

    def __len__(self) -> int:
        return 1

    def number(self, place: int) -> int:
        return self.role.number(place)

    def sample(self, i: int) -> Sample:
        return self.role.sample(i)


def test_a_sample_twice_in_a_step_has_noise_of_its_own(bench: Bench) -> None:
    data = {name: _One(role) for name, role in bench.data.items()}
    layout = lay_out(bench.recipe, bench.stage, bench.step, data, bench.encoder)
    drawing = [piece for piece in layout.pieces if piece.draws]
    assert [piece.repeat for piece in drawing] == list(range(len(drawing))) and len(drawing) > 1
    assert len({piece.place for piece in drawing}) == 1
    drawn = bench.packed([[piece] for piece in drawing]).drawn
    if "noise" in drawn:
        assert torch.equal(drawn["latent"][0], drawn["latent"][1])
        assert not torch.equal(drawn["noise"][0], drawn["noise"][1])
        assert drawn["t"][0] != drawn["t"][1]


def test_every_weight_has_a_gradient_whatever_a_row_holds(bench: Bench) -> None:
    """FSDP sums gradients over processes, whose rows hold different things."""
    layout = bench.layout(bench.step)
    by_kind: dict[tuple[bool, bool], Piece] = {(p.sees, p.draws): p for p in layout.pieces}
    assert len(by_kind) == 3
    names = []
    for rows in ([[piece] for piece in by_kind.values()], *([[p]] for p in by_kind.values()), [[]]):
        bench.trainee.zero_grad()
        sums: Sums = bench.trainee(bench.packed(rows))
        torch.autograd.backward(torch.stack(list(sums.values())).sum())
        names.append({n for n, p in bench.trainee.named_parameters() if p.grad is not None})
    assert all(each == names[0] for each in names)


def test_a_cut_image_is_left_out_and_named(bench: Bench) -> None:
    (place,) = [i for i in range(60) if bench.data["generation"].shards.name(i).endswith("/0007")]
    found = [
        (step, piece)
        for step in range(9, 25)
        for piece in bench.layout(step).pieces
        if piece.place == ("generation", place)
    ]
    step, piece = found[0]
    whole = [each for each in bench.layout(step).pieces if each is not piece and each.sees]
    both, one = bench.packed([[piece, *whole]]), bench.packed([whole])
    assert torch.equal(both.ids_RT, one.ids_RT)
    ((name, reason),) = bench.skipped.items()
    assert name.endswith("0.tar/0007") and "cut" in reason


def test_codes_are_computed_once(bench: Bench) -> None:
    piece = next(piece for piece in bench.layout(0).pieces if piece.draws)
    first = bench.packed([[piece]])
    bench.loader.encode = lambda pixels: pytest.fail("computed again")
    again = bench.packed([[piece]])
    for name in ("latent", "noise", "t"):
        assert name not in first.drawn or torch.equal(first.drawn[name], again.drawn[name])
    assert torch.equal(first.ids_RT, again.ids_RT)


def test_rows_are_filled(bench: Bench) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 90, 200).tolist()
    rows = pack(lengths, 100)
    assert sorted(i for row in rows for i in row) == list(range(200))
    assert all(sum(lengths[i] for i in row) <= 100 for row in rows)
    assert len(rows) <= 1.1 * sum(lengths) / 100 + 1
    with pytest.raises(ValueError, match="a piece of 101 positions"):
        pack([101], 100)
    layout = bench.layout(0)
    for world, at_once in product((1, 2, 3), (1, 2, 64)):
        turns = [layout.of(rank, world, at_once) for rank in range(world)]
        assert len({len(each) for each in turns}) == 1
        rows_of_all = sorted(row for each in turns for turn in each for row in turn if row)
        assert rows_of_all == sorted(layout.rows)
        sizes = {len(turn) for each in turns for turn in each}
        assert len(sizes) == 1 and max(sizes) <= at_once
        # no more empty rows than turns need to be equal
        assert world * len(turns[0]) * max(sizes) < len(layout.rows) + world * len(turns[0])


def test_attention_stays_inside_a_piece(bench: Bench) -> None:
    layout = bench.layout(bench.step)
    packed = bench.packed([[*layout.pieces[:2]], [layout.pieces[2]]])
    mask = packed.mask().numpy()
    piece = packed.piece_RT.numpy()
    for r, row in enumerate(piece):
        for i in range(len(row)):
            wanted = [j <= i and row[i] == row[j] for j in range(len(row))]
            assert mask[r, i].tolist() == wanted and mask[r, i, i]


def test_answers_alone_are_learned(bench: Bench) -> None:
    """A conversation is what the runtime asks with, and its answers with their ends are targets."""
    encoder, seen = bench.encoder, 4
    piece = answer_piece(encoder, [("what is it?", "a star"), ("how many?", "two")], seen)
    learned = [encoder.answer("a star"), encoder.answer("two")]
    targets = piece.targets_T[piece.targets_T != IGNORED]
    assert targets.tolist() == np.concatenate(learned).tolist()
    first = encoder.question("what is it?", seen)
    assert piece.ids_T[: len(first)].tolist() == first.tolist()
    assert np.count_nonzero(piece.kinds_T == SEEN) == seen
    with pytest.raises(PromptError, match="the answer is empty"):
        answer_piece(encoder, [("what?", " ")], seen)


def test_dropped_captions(bench: Bench) -> None:
    """A tenth of the captions; a Janus's become padding, a JanusFlow's are not there."""
    drawn = [p for step in range(25) for p in bench.layout(step).pieces if p.draws]
    dropped = [piece for piece in drawn if _is_dropped(bench, piece)]
    assert 0.03 < len(dropped) / len(drawn) < 0.2
    for piece in dropped:
        made = int(np.count_nonzero((piece.kinds_T == CODE) | (piece.kinds_T == LATENT)))
        assert piece.positions_T[-1] >= made  # what follows keeps its positions


def _is_dropped(bench: Bench, piece: Piece) -> bool:
    if isinstance(bench.model, Janus):
        return piece.ids_T[1] == bench.encoder.ids["pad"]
    return bool(piece.positions_T[1] > 1)


def test_a_step_follows_from_its_number_alone(bench: Bench) -> None:
    layouts = [bench.layout(5), bench.layout(5), bench.layout(6)]
    ids = [[piece.ids_T.tolist() for piece in each.pieces] for each in layouts]
    assert ids[0] == ids[1] != ids[2]
    noise = [bench.packed([[*layouts[0].pieces]]) for _ in range(2)]
    for name, value in noise[0].drawn.items():
        assert torch.equal(value, noise[1].drawn[name])


def test_losses_have_no_weights_between_tasks() -> None:
    def recipe(name: str) -> Recipe:
        return load_recipe(RECIPES / f"{name}.toml")

    layout = Layout(pieces=(), rows=(), skipped={})
    mini, flow = recipe("mini"), recipe("mini-flow")
    shares = share_of(mini, mini.stages[0], layout)
    assert shares["answer"] == shares["image"]
    assert set(share_of(flow, flow.stages[0], layout).values()) == {1.0}


def test_examples_may_count_alike(bench: Bench) -> None:
    if not isinstance(bench.model, Janus):
        return
    stage = bench.stage.model_copy(update={"balance": "examples"})
    layout = bench.layout(5)
    shares = share_of(bench.recipe, stage, layout)
    drawn = sum(piece.draws for piece in layout.pieces)
    assert shares["image"] * layout.num_codes * len(layout.pieces) == pytest.approx(drawn)
    answers = len(layout.pieces) - drawn
    assert shares["answer"] * layout.num_tokens * len(layout.pieces) == pytest.approx(answers)
