"""Have an installed transformers write the configs of the published models.

    python -m venv /tmp/old && /tmp/old/bin/pip install transformers==4.38.2
    /tmp/old/bin/python tools/write_configs.py tests/published

Each version of transformers omits and adds other fields; tests/model/test_published.py reads what
all of them write. The tool adds a folder named by the version. It holds a config of each model in
DeepSeek's format, whose classes are not transformers' and are defined here with the same fields.
From version 4.51 on it also holds configs in transformers' own format. The tool needs transformers
alone: neither PyTorch nor janus-edge.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import transformers
from transformers import LlamaConfig, PretrainedConfig

PUBLISHED = Path(__file__).resolve().parent.parent / "tests" / "published"
NAMES = ("janus-pro-1b", "janus-pro-7b", "janusflow-1.3b")


class Part(PretrainedConfig):
    """A section beside the language model's: the name of a class and its parameters."""

    def __init__(self, cls: str = "", params: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Keep the name of the class and its parameters."""
        super().__init__(**kwargs)
        self.cls = cls
        self.params = params or {}


class MultiModalityConfig(PretrainedConfig):
    """The published models' config; its sections are configs, too, of the kinds in ``parts``."""

    model_type = "multi_modality"
    parts = None  # class of each section by name; set in subclasses, as a default cannot be a dict

    def __init__(self, language_config: dict[str, Any] | None = None, **sections: Any) -> None:
        """Make a config of each section."""
        for name, kind in (self.parts or {}).items():
            setattr(self, name, kind(**sections.pop(name, {})))
        self.language_config = LlamaConfig(**(language_config or {}))
        super().__init__(**sections)


def multi_modality(raw: dict[str, Any]) -> PretrainedConfig:
    """Return a published config as an object of such a class."""
    parts = {
        name: _kind(Part, model_type=section.pop("model_type"))
        for name, section in raw.items()
        if isinstance(section, dict) and "cls" in section
    }
    return _kind(MultiModalityConfig, parts=parts)(**raw)


def _kind(base: type[PretrainedConfig], **values: Any) -> type[PretrainedConfig]:
    """Return a subclass with these values.

    It keeps ``__init__``: transformers 5 gives a class without one another ``__init__``.
    """
    return type(base.__name__, (base,), {"__init__": base.__init__, **values})


def saved(config: PretrainedConfig) -> str:
    """Return the config.json that transformers saves."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return (Path(folder) / "config.json").read_text(encoding="utf-8")


def main() -> None:
    """Write a folder named by the version of transformers."""
    folder = Path(sys.argv[1]) / f"transformers-{transformers.__version__}"
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        raw = json.loads((PUBLISHED / f"config-{name}.json").read_text(encoding="utf-8"))
        written = {"multi_modality": saved(multi_modality(copy.deepcopy(raw)))}
        if hasattr(transformers, "JanusConfig") and "flow" not in name:
            width = raw["aligner_config"]["params"]["n_embed"]
            parts = {
                "vision_config": {"projection_dim": width},
                "vq_config": {"projection_dim": width, "image_token_embed_dim": width},
            }
            config = transformers.JanusConfig(text_config=raw["language_config"], **parts)
            written["janus"] = saved(config)
        for kind, text in written.items():
            path = folder / f"{kind}-{name}.json"
            path.write_text(text, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
