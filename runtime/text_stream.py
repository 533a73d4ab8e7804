"""Text of tokens as they come: whole characters, and nothing of the user's next turn."""

from __future__ import annotations

from collections.abc import Callable


class TextStream:
    """Takes tokens one by one and gives the text that is certain.

    A piece is never a part of a character, nor anything of the user's next turn, at which the text
    ends. Tokens are decoded once, or again while a character is not complete: byte-level tokens
    stand for bytes whatever comes before them.

    Attributes:
        is_over: True once the user's next turn has begun.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop_string: str | None) -> None:
        """Begin.

        Args:
            decode: From tokens to their text.
            stop_string: What the user's next turn begins with; None if a token ends the text.
        """
        self._decode, self._stop_string = decode, stop_string
        self._pending: list[int] = []  # tokens whose last character is not complete
        self._held = ""  # what may become the stop string
        self._has_begun = False
        self.is_over = False

    def add(self, token: int) -> str:
        """Return the text that is certain after one more token; it may be empty."""
        self._pending.append(token)
        text = self._trimmed(self._held + self._decode(self._pending))
        if self._stop_string is not None and self._stop_string in text:
            self.is_over = True
            return text[: text.index(self._stop_string)].rstrip()
        if text.endswith("\ufffd"):
            return ""
        safe = len(text) - _begun(text, self._stop_string)
        self._has_begun = self._has_begun or safe > 0
        self._pending, self._held = [], text[safe:]
        return text[:safe]

    def end(self) -> str:
        """Return what was held back, once there are no more tokens."""
        if self.is_over:
            return ""
        return self._trimmed(self._held + self._decode(self._pending))

    def _trimmed(self, text: str) -> str:
        return text if self._has_begun else text.lstrip()


def _begun(text: str, stop: str | None) -> int:
    """Return how many of the last characters could be the beginning of a stop string."""
    if stop is None:
        return 0
    return next((n for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n])), 0)
