"""A folder as published, to a bundle: what `janus-edge export` does with one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from janus_edge.export.bundle.writer import export_folder
from janus_edge.export.tokenizer.compile import check_tokenizer, compile_tokenizer
from janus_edge.export.tokenizer.roles import SYSTEM_PROMPT, TEMPLATES, addressed, complete
from janus_edge.export.tokenizer.tables import TokenTables
from janus_edge.model.janus import guide, unconditional
from janus_edge.model.tensors import CheckpointError
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Image
from janus_edge.runtime.prompt import TOKEN_STRINGS, PromptEncoder
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.train.text import TEMPLATE, make_tokenizer
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


def test_how_a_model_is_addressed(checkpoint: Checkpoint, flow_checkpoint: Checkpoint) -> None:
    """By its config where that says it, by its family or its tokenizer; never by a path."""
    plain = without().replace("<|User|>", "<|user|>")
    old, pro = TEMPLATES["janus"], TEMPLATES["janus-pro"]
    janus, flow = (replace(each, prompt=None) for each in (checkpoint, flow_checkpoint))
    assert addressed(janus, without(), None)[0] == pro
    assert addressed(janus, plain, None)[0] == old
    assert addressed(flow, without(), None)[0] == old  # its tokenizer knows <|User|>, too
    assert addressed(checkpoint, plain, None)[0] == TEMPLATE
    for each in (checkpoint, janus, flow):
        assert addressed(each, plain, "janus-pro")[0] == pro
        assert addressed(each, without(), "janus")[0] == old
    with pytest.raises(OptionError, match='roles is "vicuna"; give one of janus, janus-pro'):
        addressed(janus, plain, "vicuna")
    assert (old.user_role, pro.user_role) == ("User", "<|User|>")


LONG = "a red circle left of a blue square, " * 30


@pytest.mark.parametrize(
    "left",
    [
        {"truncation": {"direction": "Right", "max_length": 128, "strategy": "LongestFirst",
                        "stride": 0}},
        {"padding": {"strategy": {"Fixed": 700}, "direction": "Right", "pad_to_multiple_of": None,
                     "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}},
    ],
)  # fmt: skip
def test_what_a_saved_tokenizer_would_do_to_prompts_is_dropped(left: dict[str, Any]) -> None:
    """At export, by Python and by the tables of native code, and at load."""
    plain = without()
    said = json.dumps(json.loads(plain) | left)
    ids = PromptEncoder.load(plain, TEMPLATE).generation(LONG)
    assert len(ids) > 200 and len(Tokenizer.from_str(said).encode(LONG).ids) in (128, 700)
    assert np.array_equal(PromptEncoder.load(said, TEMPLATE).generation(LONG), ids)
    exported = complete(said, 470)
    assert "truncation" in exported and np.array_equal(
        PromptEncoder.load(exported, TEMPLATE).generation(LONG), ids
    )
    compiled = compile_tokenizer(exported)
    check_tokenizer(exported, compiled)
    assert TokenTables(compiled).encode(LONG) == Tokenizer.from_str(plain).encode(LONG).ids
