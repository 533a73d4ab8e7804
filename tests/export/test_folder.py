"""A folder as published, to a bundle: what `janus-edge export` does with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from janus_edge.export.bundle import export_folder
from janus_edge.export.tokenizer import SYSTEM_PROMPT, TEMPLATES, complete, template_of
from janus_edge.model.janus import guide, unconditional
from janus_edge.model.tensors import CheckpointError
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.events import Image
from janus_edge.runtime.prompt import TOKEN_STRINGS
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.train.text import make_tokenizer
from tests.model.conftest import load_ours, make_theirs, small_config


def without(*names: str) -> str:
    """A tokenizer.json that lacks some special tokens."""
    text = make_tokenizer(456, 100).to_str()
    for name in names:
        text = text.replace(TOKEN_STRINGS[name], f"<not_{name}>")
    return text


def test_a_transformers_folder_draws_what_pytorch_draws(tmp_path: Path) -> None:
    folder = tmp_path / "Janus-Pro-1B"
    make_theirs(small_config(text_config__vocab_size=470), folder)
    (folder / "tokenizer.json").write_text(without("begin_of_image", "pad"), encoding="utf-8")
    export_folder(folder, tmp_path / "bundle", max_length=128, report=lambda line: None)
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.prompt.user_role == "<|User|>"
    assert bundle.manifest.prompt.system_prompt == SYSTEM_PROMPT
    assert bundle.manifest.sampling.guidance_scale == 5
    request = ImageRequest(prompt="a star", temperature=0)
    events = Session(bundle, num_threads=1).generate_image(request)
    (drawn,) = [event for event in events if isinstance(event, Image)]
    model, ids = load_ours(folder), bundle.encoder.generation("a star")
    prompt = torch.from_numpy(ids)[None]
    rows = torch.cat([prompt, unconditional(prompt, bundle.encoder.ids["pad"])])
    codes: list[int] = []
    with torch.no_grad():
        for _ in range(16):
            so_far = torch.tensor(codes, dtype=torch.long).expand(2, -1)
            x = torch.cat([model.embed_text(rows), model.embed_codes(so_far)], dim=1)
            logits = model.image_logits(model.hidden(x)[:, -1])
            codes.append(int(guide(logits[0], logits[1], 5.0).argmax()))
    assert np.array_equal(drawn.codes, codes)
    assert len(set(codes)) > 2


def test_missing_special_tokens_are_added() -> None:
    before, after = (
        without("begin_of_image", "pad"),
        complete(without("begin_of_image", "pad"), 470),
    )
    added = Tokenizer.from_str(after)
    size = Tokenizer.from_str(before).get_vocab_size()
    assert {added.token_to_id(TOKEN_STRINGS[n]) for n in ("begin_of_image", "pad")} == {
        size,
        size + 1,
    }
    whole = without()
    assert complete(whole, 470) is whole


def test_a_tokenizer_that_does_not_fit() -> None:
    with pytest.raises(CheckpointError, match=r"the model 100 rows"):
        complete(without(), 100)
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        complete("{}", 100)


def test_roles_go_by_name_then_by_tokenizer(tmp_path: Path) -> None:
    plain = without().replace("<|User|>", "<|user|>")
    old, pro = TEMPLATES["janus"], TEMPLATES["janus-pro"]
    hub = Path("hub/models--deepseek-ai--Janus-Pro-7B/snapshots/3f0c")
    assert template_of(plain, tmp_path / hub) == pro
    assert template_of(without(), tmp_path / "janus-pro" / "Janus-1.3B") == old
    assert template_of(without(), tmp_path / "models--deepseek-ai--JanusFlow-1.3B") == old
    assert template_of(without(), tmp_path / "mine") == pro
    assert template_of(plain, tmp_path / "mine") == old
    assert (old.user_role, pro.user_role) == ("User", "<|User|>")
