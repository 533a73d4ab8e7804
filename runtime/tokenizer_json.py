"""Read a tokenizer.json that somebody else has made, by the tokenizers library.

The library panics, which is no Exception, if a regular expression takes too many tries or a
setting contradicts another. So only byte-level BPE of the kinds that tokenizer.bin has a form for
(docs/bundle.md) reaches it. The expressions of these kinds are single classes of characters.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer

from janus_edge.runtime.json_text import parse_json

CLASS_PATTERN = re.compile(r"(\\s\?)?(\[[^\[\]]*\])(\+)?", re.DOTALL)
SPACES_AT_THE_END = r"\s+$"
UNKNOWN_OF_MODELS = (
    *("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"),
    *("byte_fallback", "ignore_merges"),
)
_DROPPED = ("truncation", "padding", "post_processor")  # would change a prompt's ids, or do nothing


def load_tokenizer(json_text: str) -> tuple[Tokenizer, int]:
    """Return the tokenizer and its largest id.

    Raises:
        ValueError: It is not a byte-level BPE that the library can read. The message is one line.
    """
    try:
        raw = parse_json(json_text)
        _check(raw)
        text = json_text
        if any(raw.get(key) and not _is(raw[key], "ByteLevel") for key in _DROPPED):
            text = json.dumps(raw | dict.fromkeys(_DROPPED))
        tokenizer = Tokenizer.from_str(text)
        ids = (*raw["model"]["vocab"].values(), *(token["id"] for token in raw["added_tokens"]))
        return tokenizer, max(ids)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (TypeError, KeyError, AttributeError) as error:  # the JSON has another shape
        raise ValueError(f"not a tokenizer: {type(error).__name__}: {error}") from None
    except ValueError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except BaseException as error:  # the library raises bare Exception, and panics
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ValueError(f"not a tokenizer: {' '.join(str(error).split())}") from None


def is_panic(error: BaseException) -> bool:
    """Return True if an error is a panic of the library, which has no class to import."""
    return type(error).__name__ == "PanicException"


def _check(raw: Any) -> None:
    """Raise ValueError for anything but a byte-level BPE of the kinds that are known."""
    model = raw["model"]
    if model["type"] != "BPE":
        raise ValueError(f"a {model['type']} model; only BPE is known")
    for key in UNKNOWN_OF_MODELS:
        if model.get(key):
            raise ValueError(f"model.{key} is set, which is not known")
    for token in raw["added_tokens"]:
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise ValueError(f"{token['content']}: strips or wants whole words")
    if raw.get("normalizer") not in (
        *(None, {"type": "Lowercase"}),
        {"type": "Sequence", "normalizers": []},
    ):
        raise ValueError(f"normalizer {str(raw['normalizer'])[:80]}; only Lowercase is known")
    if not _is(raw.get("decoder"), "ByteLevel"):
        raise ValueError("decoder is not ByteLevel; no other is known")
    parts = raw["pre_tokenizer"].get("pretokenizers", [raw["pre_tokenizer"]])
    if not parts or not _is(parts[-1], "ByteLevel") or parts[-1].get("add_prefix_space"):
        raise ValueError("pre_tokenizer does not end in ByteLevel as it is")
    for part in parts[:-1]:
        if not _is_known_split(part):
            raise ValueError(f"pre_tokenizer {str(part)[:80]}; it is not known")


def _is_known_split(part: dict[str, Any]) -> bool:
    if part["type"] == "Digits":
        return True
    if part["type"] != "Split" or part["behavior"] != "Isolated" or part["invert"]:
        return False
    pattern = part["pattern"].get("Regex", "")
    return pattern == SPACES_AT_THE_END or CLASS_PATTERN.fullmatch(pattern) is not None


def _is(part: Any, kind: str) -> bool:
    return isinstance(part, dict) and part.get("type") == kind
