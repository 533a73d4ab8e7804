"""The model card of a pushed bundle: what it was made from, its licence, scores, how to run it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.hub.repository import REPO
from janus_edge.runtime.bundle import SHIPPED, Bundle
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.manifest import Component, FlowManifest, JanusManifest
from janus_edge.runtime.reading import read_regular

_MARK = "<!-- Written by janus-edge push, {}. A push keeps a card that was changed. -->\n"
_MARKED = re.compile(_MARK.replace(".", r"\.").format("([0-9a-f]{64})"))
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_MOST_RECORDS = 16 * 2**20  # bytes
_DEEPSEEK = {
    "license": "other",
    "license_name": "deepseek-model-license",
    "license_link": "https://github.com/deepseek-ai/DeepSeek-LLM/blob/main/LICENSE-MODEL",
}
_PARTS = {"geneval": "drawing", "strict": "drawing, strictly judged", "answering": "answering"}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a bundle was made from.

    Attributes:
        base_model: The checkpoint, ``owner/name``; None if it has no public name.
        commit: Its commit; None if unknown.
        license: The licence's keys in the card.
    """

    base_model: str | None
    commit: str | None
    license: dict[str, str]

    @property
    def wants_copy(self) -> bool:
        """Return True if the licence asks for a copy of itself beside the weights."""
        return self.license == _DEEPSEEK


def origin_of(bundle: Bundle, base_model: str | None, license: str | None) -> Origin:
    """Return what a bundle was made from.

    Args:
        bundle: The bundle.
        base_model: The checkpoint, ``owner/name``; None for what the manifest says.
        license: The licence's name on the hub; None for what follows from the checkpoint.

    Raises:
        OptionError: The licence is unknown, or a name is none.
    """
    if base_model is not None and not REPO.fullmatch(base_model):
        raise OptionError(f"--base-model {base_model!r}: give a repository as owner/name")
    if license is not None and not _LICENSE.fullmatch(license):
        raise OptionError(f"--license {license!r}: give the hub's name of it, as apache-2.0")
    source, commit = base_model, None
    if source is None and bundle.manifest.source is not None:
        source, _, commit = bundle.manifest.source.partition("@")
    if license is not None:
        keys = {"license": license}
    elif source is not None and source.startswith(("deepseek-ai/", "deepseek-community/")):
        keys = _DEEPSEEK
    elif bundle.folder.parent == SHIPPED:
        keys = {"license": "apache-2.0"}
    else:
        raise OptionError(
            f"{bundle.folder}: nothing says under which licence; name it, as: --license apache-2.0"
        )
    return Origin(base_model=source, commit=commit or None, license=keys)


def card(bundle: Bundle, repo: str, origin: Origin, scores: list[dict[str, Any]]) -> str:
    """Return the card's text.

    Args:
        bundle: The bundle.
        repo: Where it is pushed, ``owner/name``.
        origin: What it was made from.
        scores: Records of ``janus-edge eval``, one per world.
    """
    name = repo.rsplit("/", 1)[-1]
    parts = [_head(origin), f"# {name}\n", _run(repo), _holds(bundle)]
    text = "\n".join([*parts, _made(bundle, origin), *map(_scored, scores)])
    return text + "\n" + _MARK.format(_sha256(text + "\n"))


def is_pushed(text: str) -> bool:
    """Return True if a card is what a push wrote, unchanged."""
    text = text.replace("\r\n", "\n")
    found = _MARKED.search(text)
    return found is not None and _sha256(text.replace(found[0], "")) == found[1]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_scores(path: Path, bundle: Bundle) -> list[dict[str, Any]]:
    """Return a bundle's newest record of each world, from what ``eval --record`` wrote.

    Raises:
        OptionError: The file cannot be read, or has no record of this bundle.
    """
    try:
        lines = read_regular(path, _MOST_RECORDS).decode().splitlines()
        records = [json.loads(line) for line in lines if line.strip()]
        own = [each for each in records if each["bundle_sha256"] == bundle.sha256]
        newest = {str(each["schema"]): each for each in own if _PARTS.keys() & each.keys()}
        for each in newest.values():
            _scored(each)
    except OSError as error:
        raise OptionError(f"--scores {path}: {error.strerror}; name a file") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise OptionError(
            f"--scores {path}: no records; give what janus-edge eval --record wrote"
        ) from None
    if not newest:
        raise OptionError(
            f"--scores {path}: no record of this bundle; run: janus-edge eval WORLD "
            f"--model {bundle.folder.name} --record {path}"
        )
    return list(newest.values())


def _head(origin: Origin) -> str:
    """Return the keys that the hub reads. JSON's strings are YAML's, too."""
    keys: dict[str, Any] = {"library_name": "janus-edge", **origin.license}
    if origin.base_model:
        keys |= {"base_model": origin.base_model, "base_model_relation": "quantized"}
    keys |= {"pipeline_tag": "any-to-any", "tags": ["janus", "text-to-image", "image-text-to-text"]}
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]
    return "\n".join(["---", *lines, "---", ""])


def _run(repo: str) -> str:
    name = repo.rsplit("/", 1)[-1].lower()
    return f"""A bundle of janus-edge: a compiled model that draws images and answers questions
about them, without PyTorch. In a checkout of janus-edge:

```sh
pip install '.[hub]'
janus-edge pull {repo}
janus-edge generate "a red bicycle" --model {name}
janus-edge ask photo.jpg "What is in this image?" --model {name}
```

In Python:

```python
import janus_edge

model = janus_edge.load("{name}")
model.draw("a red bicycle", seed=7).save("bicycle.png")
```
"""


def _holds(bundle: Bundle) -> str:
    manifest, sizes = bundle.manifest, bundle.manifest.sizes
    megabytes = sum(map(bundle.num_bytes, manifest.components)) / 1e6
    decoder = manifest.components["decoder"]
    targets = sorted({part.target for part in manifest.components.values()} - {"any"})
    sampling = manifest.sampling.model_dump()
    rows = {
        "family": {JanusManifest: "Janus", FlowManifest: "JanusFlow"}[type(manifest)],
        "image": f"{sizes.image_size} x {sizes.image_size} px",
        "decoder's weights": _stored(decoder),
        "longest context": f"{sizes.max_length} positions",
        "size": f"{megabytes:.0f} MB",
        "built for": ", ".join(targets) or "any",
        "default settings": ", ".join(f"{key} {value}" for key, value in sampling.items()),
        "SHA-256 of the manifest": f"`{bundle.sha256}`",
    }
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join(["## What it holds\n", "| | |", "|---|---|", *lines, ""])


def _stored(part: Component) -> str:
    return part.weights if part.quantization == "none" else f"{part.weights}, {part.quantization}"


def _made(bundle: Bundle, origin: Origin) -> str:
    made = f"It was made by {bundle.manifest.created_by}"
    if origin.base_model:
        made += f" from [{origin.base_model}](https://huggingface.co/{origin.base_model})"
        made += f", commit `{origin.commit}`" if origin.commit else ""
    name = origin.license.get("license_name", origin.license["license"])
    link = origin.license.get("license_link")
    licensed = f"[{name}]({link})" if link else name
    return f"## What it was made from\n\n{made}.\n\nLicence of the weights: {licensed}.\n"


def _scored(record: dict[str, Any]) -> str:
    """Return a record of ``janus-edge eval`` as a table."""
    world = str(record["schema"]).partition("/")[0]
    lines = [f"## Scores: {_cell(world)}\n", "| | score | standard error | of | by kind |"]
    lines.append("|---|---|---|---|---|")
    for key, title in _PARTS.items():
        if key in record:
            part = record[key]
            kinds = ", ".join(f"{kind} {np.round(x, 2)}" for kind, x in part["groups"].items())
            error = float(part["standard_error"])
            score = float(part["overall"])
            lines.append(f"| {title} | {score:.3f} | {error:.3f} | {part['count']} | {kinds} |")
    said = f"Measured by `{record['command']}` at commit `{record['commit']}`."
    return "\n".join([*lines, "", said.replace("\n", " "), ""])


def _cell(text: object) -> str:
    """Return a text that cannot leave its cell."""
    return str(text).replace("|", "\\|").replace("\n", " ")
