"""A decode step by our kernels computes what the graph computes, and each kernel its reference."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from janus_edge.export.graph import component
from janus_edge.kernels import attend, attend_many, gate_up, head, merge, norm, product, repack
from janus_edge.kernels.quantized import INT4, INT8, pack, unpack, weights
from janus_edge.model.config import ImageHeadConfig, LanguageConfig
from janus_edge.model.janus import Janus
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.tiles import LAYOUTS, to_tiles
from janus_edge.train.initial import initialise
from janus_edge.train.text import TEMPLATE, make_tokenizer
from tests.conftest import RANDOM
from tests.kernels.conftest import DEVICE
from tests.kernels.decoding import SLOTS, Model, Step, expected_of, logits_of, model_of

# Products round what they take to float16; everything is added in float32.
BUDGET = 2e-3
SIZES = {"heads of 64, shared": (256, 384, 4, 2), "heads of 128": (256, 640, 2, 2)}


@pytest.fixture(scope="module", params=SIZES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Two layers."""
    width, inner, heads, shared = SIZES[request.param]
    language = LanguageConfig(
        vocab_size=RANDOM.language.vocab_size,
        max_position_embeddings=2 * SLOTS,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=shared,
    )
    torch.manual_seed(1)
    small = ImageHeadConfig(image_token_embed=128)
    made = Janus(dataclasses.replace(RANDOM, language=language, gen_head=small))
    initialise(made)
    checkpoint = Checkpoint(
        model=made,
        tokenizer_json=make_tokenizer(RANDOM.language.vocab_size, 300).to_str(),
        prompt=dataclasses.asdict(TEMPLATE),
        sampling={"guidance_scale": 3.0, "temperature": 0.9},
    )
    return model_of(checkpoint, tmp_path_factory.mktemp("graphs"))


def relative_error(found: Any, expected: Any) -> float:
    """The largest difference over the largest expected value."""
    arrays = (
        each.cpu().numpy() if isinstance(each, Tensor) else each for each in (found, expected)
    )
    return component.relative_error(*arrays)


def step_of(model: Model, lengths: list[int]) -> Step:
    """A state with so many filled slots by row; what is beyond them is not to be read."""
    random, config = torch.Generator().manual_seed(len(lengths)), model.config
    shape = (len(lengths), config.num_key_value_heads, SLOTS, config.head_dim)
    is_filled = (torch.arange(SLOTS) < torch.tensor(lengths)[:, None])[:, None, :, None]
    caches = [
        torch.where(is_filled, torch.randn(shape, generator=random), 0.0).half().to(DEVICE)
        for _ in range(2 * config.num_hidden_layers)
    ]
    filled = torch.tensor(lengths, device=DEVICE)
    embeds = torch.randn(len(lengths), config.hidden_size, generator=random).to(DEVICE)
    return Step(caches[::2], caches[1::2], filled, embeds)


def poisoned(step: Step) -> Step:
    """The same with slots beyond the new one that would spoil any result."""
    beyond = torch.arange(SLOTS, device=DEVICE) >= step.positions[:, None]
    for cache in (*step.keys, *step.values):
        cache.masked_fill_(beyond[:, None, :, None], float("nan"))
    return step


@pytest.mark.parametrize(
    "lengths",
    [
        [0],
        [SLOTS - 1],  # the last slot
        [40, 40],
        [33, 0, SLOTS - 1],
        [31, 32, 63, 64, 65, 5, 94, 95],  # at the edges of chunks
        list(range(3, 83, 5)),  # 16 rows
    ],
)
def test_a_step_computes_what_the_graph_does(model: Model, lengths: list[int]) -> None:
    expected, expected_caches = expected_of(model, step_of(model, lengths))
    step = poisoned(step_of(model, lengths))
    found = logits_of(model, step).cpu().numpy()
    assert relative_error(found, expected) < BUDGET
    for index, (keys, values) in enumerate(zip(step.keys, step.values, strict=True)):
        for cache, wanted in ((keys, 2 * index), (values, 2 * index + 1)):
            for row, length in enumerate(lengths):
                new = cache[row, :, : length + 1].float().cpu().numpy()
                exact = expected_caches[wanted][row, :, : length + 1]
                assert relative_error(new, exact) < BUDGET


def test_a_row_is_what_it_is_alone(model: Model) -> None:
    """Bit for bit, whatever the others are: sums have a fixed order."""
    lengths = [33, 0, 95, 70]
    together = logits_of(model, step_of(model, lengths))
    again = logits_of(model, step_of(model, lengths))
    assert torch.equal(together, again)
    step = step_of(model, lengths)
    for row in range(4):
        at = slice(row, row + 1)
        alone = Step(
            [keys[at].clone() for keys in step.keys],
            [values[at].clone() for values in step.values],
            step.positions[at],
            step.embeds[at],
        )
        assert torch.equal(logits_of(model, alone)[0], together[row])


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


def matrix(outputs: int, inputs: int, packing=INT4) -> tuple[Tensor, Tensor]:
    """Random weights, which begin with the smallest and the largest."""
    most = 1 << packing.bits
    made = torch.Generator().manual_seed(outputs)
    values = torch.randint(0, most, (outputs, inputs), generator=made)
    values[0] = torch.tensor([0, most - 1]).repeat(inputs // 2)
    scales = torch.rand(outputs, inputs // packing.block, generator=made) * 0.02 - 0.005
    return pack(values, packing).to(DEVICE), scales.to(DEVICE)


@pytest.mark.parametrize("packing", [INT4, INT8])
def test_words_hold_every_value(packing) -> None:
    values = torch.arange(1 << packing.bits).repeat(256).view(2, -1)
    words = pack(values, packing)
    assert words.dtype == torch.int32 and words.shape[2] == 16
    assert torch.equal(unpack(words, packing), values)
    scales = torch.ones(2, values.shape[1] // packing.block)
    assert torch.equal(weights(words, scales, packing), (values - packing.zero).float())
    with pytest.raises(ValueError, match="no multiple of"):
        pack(values[:, :-1], packing)


@pytest.mark.parametrize("rows", [1, 2, 16])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_norm(rows: int, dtype: torch.dtype) -> None:
    stream, parts, weights = random(rows, 384), random(3, rows, 384), random(384)
    kept, found = torch.empty_like(stream), torch.empty_like(stream, dtype=dtype)
    norm.norm(stream, parts, weights, kept, found, 1e-6)
    expected = norm.reference(stream, parts, weights, 1e-6)
    assert relative_error(kept, expected[0]) < 1e-6
    assert relative_error(found.float(), expected[1]) < (1e-6 if dtype == torch.float32 else 1e-3)


@pytest.mark.parametrize("rows", [1, 2, 16])
@pytest.mark.parametrize(("outputs", "parts"), [(32, 1), (100, 2)])
@pytest.mark.parametrize("block", [16, 32, 64])
def test_products(rows: int, outputs: int, parts: int, block: int) -> None:
    """Three groups of inputs in two parts: the second has one less."""
    given, words = random(rows, 384).half(), matrix(outputs, 384)
    found = torch.full((parts, rows, outputs), torch.nan, device=DEVICE)
    product.product(given, *words, found, block)
    assert relative_error(found.sum(0), product.reference(given, *words)) < BUDGET


def test_what_no_float16_holds() -> None:
    """Rows of very different size, and one of nothing: none is lost, none spoils another."""
    inner, words = random(5, 640), matrix(80, 640)
    inner *= torch.tensor([1.0, 1e8, 1e-7, 0.0, 1e30], device=DEVICE)[:, None]
    found = torch.full((3, 5, 80), torch.nan, device=DEVICE)
    product.product(inner, *words, found)
    expected = product.reference(inner, *words)
    assert torch.equal(found.sum(0)[3], expected[3])
    for row in (0, 1, 2, 4):
        assert relative_error(found.sum(0)[row], expected[row]) < BUDGET


@pytest.mark.parametrize(("rows", "tile"), [(3, 16), (70, 64)])
def test_gate_and_up(rows: int, tile: int) -> None:
    given, words = random(rows, 128).half(), matrix(200, 128)
    found = torch.full((rows, 100), torch.nan, device=DEVICE)
    gate_up.gate_up(given, *words, found, tile=tile)
    assert relative_error(found, gate_up.reference(given, *words)) < BUDGET


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_products_of_many_rows(dtype: torch.dtype) -> None:
    """The last tile has few of them."""
    given, words = random(130, 256).to(dtype), matrix(100, 256)
    found = torch.full((1, 130, 100), torch.nan, device=DEVICE)
    product.product(given, *words, found, 64, 64)
    assert relative_error(found[0], product.reference(given, *words)) < BUDGET


class Attention:
    """Random rows of some sequences, and what attention gives them.

    Args:
        positions: By which rows are rotated.
        lengths: Slots of each cache that hold something afterwards.
    """

    HEADS, SHARED, SIZE, SLOTS = 4, 2, 64, 96

    def __init__(self, positions: list[int], lengths: list[int]) -> None:
        self.rows, caches = len(positions), len(lengths)
        outputs = random(self.rows, (self.HEADS + 2 * self.SHARED) * self.SIZE)
        angles = torch.arange(200)[:, None] * 0.3 ** torch.arange(self.SIZE // 2)
        self.places = [torch.tensor(each, device=DEVICE) for each in (positions, lengths)]
        shape = (caches, self.SHARED, self.SLOTS, self.SIZE)
        self.caches = [random(*shape).half() for _ in range(2)]
        new, span = torch.arange(self.SLOTS, device=DEVICE), self.rows // caches
        filled = self.places[1].clamp(min=span)
        for cache in self.caches:  # what comes after the new slots would spoil any result
            cache.masked_fill_((new >= filled[:, None])[:, None, :, None], torch.nan)
        self.given = (outputs, angles.cos().to(DEVICE), angles.sin().to(DEVICE))
        self.written = [cache.clone() for cache in self.caches]
        self.expected = attend.reference(*self.given, *self.written, *self.places, self.HEADS)
        self.found = torch.full_like(self.expected, torch.nan).half()

    def check(self) -> None:
        assert all(
            torch.equal(found.nan_to_num(), expected.nan_to_num())
            for found, expected in zip(self.caches, self.written, strict=True)
        )
        assert relative_error(self.found.float(), self.expected) < BUDGET


@pytest.mark.parametrize(
    ("positions", "lengths"),
    [
        ([69, 0, 31], [70, 1, 32]),
        ([30, 31, 32, 33], [34]),  # positions of one sequence
        ([0, 1, 2, 62, 63, 64], [2, 65]),  # and a prompt that is padded
        ([40, 90, 91, 92], [33, 93]),  # positions that leave gaps
    ],
)
def test_attention_put_together(positions: list[int], lengths: list[int]) -> None:
    made = Attention(positions, lengths)
    attended = torch.full((made.rows, 4, 3, 64), torch.nan, device=DEVICE)
    stats = torch.full((made.rows, 4, 3, 2), torch.nan, device=DEVICE)
    attend.attend(*made.given, *made.caches, *made.places, attended, stats)
    merge.merge(attended, stats, *made.places, made.found, 32)
    made.check()


def test_a_part_of_a_call_is_what_the_whole_is() -> None:
    """Attention of the second of two caches, and there of the last positions."""
    whole, part = (Attention([*range(40), *range(60, 100)], [40, 90]) for _ in range(2))
    attend_many.attend_many(*whole.given, *whole.caches, *whole.places, whole.found, 16)
    attend_many.attend_many(*part.given, *part.caches, *part.places, part.found, 16)  # writes slots
    outputs, caches = part.given[0][70:], [cache[1:] for cache in part.caches]
    found = torch.full_like(part.found[70:], torch.nan)
    own = (outputs, *part.given[1:], *caches, *part.places, found)
    sizes = {"HEADS": 4, "SHARED": 2, "HALF": 32, "ROWS": 16, "BLOCK": 32}
    attend_many.attend_many_kernel[(4,)](*own, part.SLOTS, 10, 40, 1, 30, **sizes)
    assert torch.equal(found, whole.found[70:])


@pytest.mark.parametrize(
    ("positions", "lengths"),
    [
        ([*range(80)], [80]),
        ([*range(20), *range(20)], [20, 3]),  # the second is padded
        ([*range(110, 180)], [76]),  # after a gap, as the flow's unconditional row
        ([*range(5, 25), *range(60, 80)], [25, 80]),
    ],
)
def test_attention_of_many_rows(positions: list[int], lengths: list[int]) -> None:
    made = Attention(positions, lengths)
    attend_many.attend_many(*made.given, *made.caches, *made.places, made.found, tile=16)
    made.check()
    made.found.fill_(torch.nan)
    attend_many.attend_many(*made.given, *made.caches, *made.places, made.found)
    made.check()


@pytest.mark.parametrize("gelu", [False, True])
def test_the_heads(gelu: bool) -> None:
    hidden = random(2, 256)
    words, bias = matrix(100, 256, INT8), random(100)
    found = torch.full((2, 100), torch.nan, device=DEVICE)
    head.head(hidden, *words, bias, found, gelu=gelu)
    assert relative_error(found, head.reference(hidden, *words, bias, gelu=gelu)) < BUDGET


@pytest.mark.parametrize("name", ["int4_tiles", "int8_tiles"])
@pytest.mark.parametrize("outputs", [32, 70])
def test_tiles_become_words(name: str, outputs: int) -> None:
    layout, packing = LAYOUTS[name], INT4 if name == "int4_tiles" else INT8
    made = np.random.default_rng(outputs)
    inputs = 2 * packing.group
    values = made.integers(0, 1 << packing.bits, (outputs, inputs), np.uint8)
    scales = made.standard_normal((outputs, inputs // packing.block), np.float32)
    blocks = values.reshape(outputs, -1, packing.block)
    stored = blocks[..., ::2] | blocks[..., 1::2] << 4 if packing.bits == 4 else blocks
    tiles = torch.from_numpy(to_tiles(stored, scales, layout).reshape(-1)).to(DEVICE)
    expected = repack.reference(torch.from_numpy(values), packing)
    words = torch.full_like(expected, -1, device=DEVICE)
    found = torch.full(scales.shape, torch.nan, device=DEVICE)
    repack.repack(tiles, words, found, packing)
    assert torch.equal(words.cpu(), expected)
    assert torch.equal(found.cpu(), torch.from_numpy(scales))
