"""The decoder's threads by themselves: see pool.c."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.native.conftest import ARM, Build, checked
from tests.native.test_sanitizers import REPORTS


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("sanitize", ["", "address,undefined", "thread", ARM])
def test_pieces_are_done_once(
    configured: Callable[[str], Build], sanitize: str, threads: int
) -> None:
    """Whichever thread does them; a worker that was late is away, and comes back."""
    command = configured(sanitize).make("pool").command("pool")
    assert checked(*command, str(threads), "2000", **REPORTS) == "ok\n"
