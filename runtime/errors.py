"""Errors that a user can cause. Each message is one line: where, what, what to do.

JanusEdgeError
├── BundleError     a bundle that is missing, damaged or of another version
├── PromptError     an empty or too long prompt or question
├── ImageError      a file that is no image, or too large an image
├── OptionError     a value outside its range
├── DeviceError     a GPU or provider that is missing, does not fit or is out of memory
├── PullError       a repository that cannot be downloaded, or arrives damaged
├── PushError       a repository that cannot be uploaded to
└── OutputError     a file or folder that cannot be written
"""

import unicodedata

_LONGEST = 4000


class JanusEdgeError(Exception):
    """The base of all errors below. Text that a message quotes cannot break or hide its line."""

    def __init__(self, message: str = "") -> None:
        """Keep the message on one line that a terminal can show.

        Args:
            message: Characters that steer a terminal or end a line become escapes. Text beyond 4000
                characters is cut.
        """
        shown = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
        super().__init__("".join(c if _can_be_shown(c) else ascii(c)[1:-1] for c in shown))


def _can_be_shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


class BundleError(JanusEdgeError):
    """A bundle that is missing, damaged or of another version."""


class PromptError(JanusEdgeError):
    """An empty or too long prompt or question."""


class ImageError(JanusEdgeError):
    """A file that is no image, or too large an image."""


class ImageWarning(UserWarning):
    """An image that is read although its end is missing."""


class OptionError(JanusEdgeError):
    """A value outside its range."""


class DeviceError(JanusEdgeError):
    """A GPU or provider that is missing, does not fit or is out of memory."""


class DeviceWarning(UserWarning):
    """A device that works more slowly than it should; its results are right."""


class PullError(JanusEdgeError):
    """A repository that cannot be downloaded, or arrives damaged."""


class PushError(JanusEdgeError):
    """A repository that cannot be uploaded to."""


class OutputError(JanusEdgeError):
    """A file or folder that cannot be written."""
