"""Text as the models read it: valid Unicode, whatever bytes the caller had."""

from __future__ import annotations

import re

_LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that represent no byte


def well_formed(text: str) -> str:
    """Return the text with U+FFFD in place of what is no Unicode (docs/prompts.md).

    A byte that Python could not decode, such as one of a command line (U+DC80 to U+DCFF, PEP 383),
    counts as that byte again. So the result is the C++ code's for the same bytes.
    """
    if text.isascii():
        return text
    return _LONE.sub("\ufffd", text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
