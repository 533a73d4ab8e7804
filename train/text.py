"""Text tokenizers of small models: byte-level BPE over the words of their world."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from janus_edge.runtime.prompt import TOKEN_STRINGS, PromptTemplate
from janus_edge.shapes.captions import caption
from janus_edge.shapes.questions import TOPICS, question, tell
from janus_edge.shapes.scenes import scenes

TEMPLATE = PromptTemplate(user_role="<|User|>", assistant_role="<|Assistant|>", system_prompt="")


def make_tokenizer(vocab_size: int, num_scenes: int = 4000) -> Tokenizer:
    """Return a tokenizer of the shape world's texts, of at most ``vocab_size`` tokens.

    Args:
        vocab_size: Most tokens, special ones included.
        num_scenes: Training scenes whose texts it is trained on.
    """
    return tokenizer_of(_corpus(num_scenes), vocab_size, TEMPLATE)


def tokenizer_of(texts: Iterable[str], vocab_size: int, template: PromptTemplate) -> Tokenizer:
    """Return a byte-level BPE tokenizer; it encodes any text, at worst as bytes.

    Args:
        texts: What it is trained on.
        vocab_size: Most tokens, special ones included.
        template: Its roles become tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()  # the small worlds are lower case, users are not
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    roles = (template.user_role, template.assistant_role)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[
            *(AddedToken(string, special=True) for string in TOKEN_STRINGS.values()),
            *(AddedToken(role, special=True) for role in roles),
        ],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _corpus(num_scenes: int) -> list[str]:
    """Return texts as they stand after a role: with a leading space or newline."""
    rng = np.random.default_rng(0)
    texts = []
    for scene in islice(scenes("train", held_out=False), num_scenes):
        texts += [f" {caption(scene, rng).text}", f" {tell(scene)}"]
        for topic in TOPICS:
            asked = question(scene, rng, topic)
            if asked is not None:
                texts += [f"\n{asked.text}", f" {asked.text}", f" {asked.answer}"]
    return texts
