from __future__ import annotations

import torch

from janus_edge.model.language import make_caches
from janus_edge.model.weights import Checkpoint


def test_prefill_and_steps_equal_the_full_pass(checkpoint: Checkpoint) -> None:
    model = checkpoint.model
    config, decoder = model.config.language, model.language_model.model
    x = torch.randn(2, 13, config.hidden_size, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(13).expand(2, -1)
    with torch.no_grad():
        full = decoder(x)
        caches = make_caches(config, 2, 20)
        parts = [
            decoder(x[:, a:b], positions[:, a:b], caches)
            for a, b in ((0, 6), (6, 7), (7, 11), (11, 13))
        ]
    assert torch.allclose(torch.cat(parts, dim=1), full, atol=1e-5)


def test_a_shorter_position_rolls_back(checkpoint: Checkpoint) -> None:
    """Stale entries beyond the position are not seen."""
    model = checkpoint.model
    config, decoder = model.config.language, model.language_model.model
    x = torch.randn(1, 9, config.hidden_size, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(9)[None]
    with torch.no_grad():
        caches = make_caches(config, 1, 12)
        decoder(x, positions, caches)
        again = decoder(x[:, 4:5], positions[:, 4:5], caches)
        assert torch.allclose(again, decoder(x[:, :5])[:, 4:], atol=1e-5)
