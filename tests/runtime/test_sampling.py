from __future__ import annotations

import numpy as np
import pytest

from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.flow import FlowSettings, integrate
from janus_edge.runtime.image import to_pixels
from janus_edge.runtime.sampling import (
    STREAMS,
    choose,
    guide,
    gumbel,
    normal,
    philox,
    random_words,
)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the generator's published known answers
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    words = philox(*(tuple(np.uint64(word) for word in words) for words in (counter, key)))
    assert tuple(int(word) for word in words) == expected


WORDS = [976134560, 2128141106, 1853871947, 3011632945, 2464808780, 456313845]
NOISE = [-0.393122, 0.353544, 0.174154, 1.035746, 0.588193, -0.807377]


def test_vectors_of_the_document() -> None:
    """The numbers printed in docs/sampling.md."""
    words = random_words(np.array([2**40 + 7]), np.array([3]), 6, stream=0)
    assert words[0, 0].tolist() == WORDS
    noise = gumbel(np.array([2**40 + 7]), np.array([3]), 6, stream=0)
    assert noise[0, 0] == pytest.approx(NOISE, abs=2e-6)


def test_noise_depends_on_seed_position_and_code_alone() -> None:
    alone = gumbel(np.array([9]), np.array([5]), 40, stream=0)[0, 0]
    batch = gumbel(np.array([4, 9, 11]), np.arange(3, 8), 53, stream=0)
    assert np.array_equal(batch[1, 2, :40], alone)
    for other in (
        batch[0, 2],
        batch[1, 1],
        gumbel(np.array([9]), np.array([5]), 40, stream=1)[0, 0],
    ):
        assert not np.array_equal(other[:40], alone)


def test_noise_is_gumbel() -> None:
    noise = gumbel(np.arange(20), np.arange(50), 256, stream=0)
    assert noise.mean() == pytest.approx(0.57722, abs=0.01)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.02)
    assert np.isfinite(noise).all()


LATENT_WORDS = [4092023204, 2755114893, 158171640, 1459716169, 1884418342, 3543772478]
LATENT_NOISE = [-0.196098, -0.241566, -1.375063, 2.170770, 0.583456, -1.143341]


def test_latent_vectors_of_the_document() -> None:
    """The numbers printed in docs/sampling.md, and what they are of each other."""
    seeds, stream = np.array([2**40 + 7]), STREAMS["latent"]
    assert random_words(seeds, np.array([0]), 6, stream)[0, 0].tolist() == LATENT_WORDS
    noise = normal(seeds, (1, 2, 3), stream)
    assert noise.shape == (1, 1, 2, 3) and noise.dtype == np.float32
    assert noise.ravel() == pytest.approx(LATENT_NOISE, abs=2e-6)
    for (w1, w2), pair in zip(np.reshape(LATENT_WORDS, (3, 2)), noise.reshape(3, 2), strict=True):
        radius = np.sqrt(-2 * np.log(((w1 >> 9) + 0.5) / 2**23))
        angle = 2 * np.pi * ((w2 >> 9) + 0.5) / 2**23
        assert pair == pytest.approx(radius * np.array([np.cos(angle), np.sin(angle)]), rel=1e-6)


def test_normal_noise_depends_on_seed_and_element_alone() -> None:
    alone = normal(np.array([9]), (4, 3, 5), stream=2)
    batch = normal(np.array([4, 9, 11]), (4, 3, 5), stream=2)
    assert np.array_equal(batch[1], alone[0])
    assert not np.array_equal(batch[0], batch[2])
    assert not np.array_equal(normal(np.array([9]), (4, 3, 5), stream=1), alone)
    for size in (1, 7, 58):  # odd ones drop the last pair's second element
        assert np.array_equal(normal(np.array([9]), (size,), stream=2)[0], alone.ravel()[:size])


def test_normal_noise_is_normal() -> None:
    noise = normal(np.arange(20), (4, 48, 48), stream=2)
    assert noise.shape == (20, 4, 48, 48) and np.isfinite(noise).all()
    pairs = noise.astype(np.float64).reshape(-1, 2)
    for moment, expected in {1: 0, 2: 1, 3: 0, 4: 3, 6: 15}.items():
        deviation = np.sqrt(np.var(pairs**moment, axis=0).max() / len(pairs))
        assert (pairs**moment).mean(axis=0) == pytest.approx(expected, abs=4 * deviation)
    assert (pairs[:, 0] * pairs[:, 1]).mean() == pytest.approx(0, abs=0.01)
    assert (np.abs(pairs) < 1).mean() == pytest.approx(0.6827, abs=0.005)
    assert np.abs(pairs).max() < 5.77


def test_argmax_of_logits_plus_noise_samples_the_softmax() -> None:
    logits = np.array([1.0, 0.0, -1.0, 2.0], np.float32)
    noise = gumbel(np.arange(20000), np.array([0]), 4, stream=0)[:, 0]
    codes = choose(np.tile(logits, (20000, 1)), noise, temperature=0.7)
    expected = np.exp(logits / 0.7) / np.exp(logits / 0.7).sum()
    assert np.bincount(codes, minlength=4) / 20000 == pytest.approx(expected, abs=0.012)


def test_temperature_zero_is_greedy() -> None:
    logits = np.array([[0.0, 3.0, 1.0]], np.float32)
    assert choose(logits, np.array([[9.0, 0.0, 9.0]], np.float32), 0.0).tolist() == [1]


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    noise = np.array([[0.0, 0.0, 10.0, 20.0]], np.float32)
    assert choose(logits, noise, 1.0).tolist() == [3]
    assert choose(logits, noise, 1.0, top_k=3).tolist() == [2]
    assert choose(logits, noise, 1.0, top_p=0.9).tolist() == [2]
    assert choose(logits, noise, 1.0, top_p=0.5).tolist() == [0]


def test_guidance_at_one_is_the_conditional_row() -> None:
    rng = np.random.default_rng(0)
    cond, uncond = rng.standard_normal((2, 3, 7)).astype(np.float32)
    assert guide(cond, uncond, 1.0) == pytest.approx(cond, abs=1e-6)
    assert guide(cond, uncond, 5.0) == pytest.approx(uncond + 5 * (cond - uncond), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -0.0, 5e-324, 1e-45, 1e-38, 9.999999e-7])
def test_tiny_temperatures_are_greedy(temperature: float) -> None:
    """Divided by them, logits overflowed, and code 0 was drawn always."""
    logits = np.array([[-1.0, 3.0, 4.0, 4.0]], np.float32)
    assert choose(logits, np.array([[9.0, 9.0, 0.0, 9.0]], np.float32), temperature).tolist() == [2]


def test_the_smallest_temperature_does_not_overflow() -> None:
    logits = np.array([[-1e30, 1e30, 9.9e29]], np.float32)
    noise = np.array([[9.0, 0.0, 9.0]], np.float32)
    assert choose(logits, noise, 1e-6, top_k=2, top_p=0.5).tolist() == [1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.1e30, -3e38])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_not_finite_is_refused(value: float, temperature: float) -> None:
    logits = np.array([[1.0, 2.0, value, 3.0]], np.float32)
    with pytest.raises(BundleError, match="logits that are NaN or beyond 1e30"):
        choose(logits, np.zeros((1, 4), np.float32), temperature)
    with pytest.raises(BundleError, match="logits that are"):
        choose(guide(logits, logits[:, ::-1], 100.0), np.zeros((1, 4), np.float32), temperature)
    settings = FlowSettings(guidance_scale=1.0, num_steps=2, solver="euler")
    start = np.ones((1, 1, 1, 4), np.float32)
    with pytest.raises(BundleError, match="velocities that are"):
        list(integrate(lambda z, t, guided: logits[None, None], start, settings))
    with pytest.raises(BundleError, match="pixels that are"):
        to_pixels(np.full((3, 2, 2), value, np.float32))
