"""Add what a published checkpoint's tokenizer lacks: special tokens, and the roles of a prompt."""

from __future__ import annotations

import json

from tokenizers import AddedToken, Tokenizer

from janus_edge.model.files import CheckpointError
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.prompt import TOKEN_STRINGS, PromptTemplate
from janus_edge.runtime.tokenizer_json import load_tokenizer

SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
_DROPPED = ("truncation", "padding")
TEMPLATES = {
    "janus": PromptTemplate(
        user_role="User", assistant_role="Assistant", system_prompt=SYSTEM_PROMPT
    ),
    "janus-pro": PromptTemplate(
        user_role="<|User|>", assistant_role="<|Assistant|>", system_prompt=SYSTEM_PROMPT
    ),
}


def complete(json_text: str, vocab_size: int) -> str:
    """Return the text of a tokenizer.json with every special token that the model needs.

    Truncation and padding, which a program may have left in it when it saved it, are removed:
    truncation cuts long prompts together with their last token, padding adds tokens to short ones.

    Args:
        json_text: The checkpoint's tokenizer.json.
        vocab_size: Rows of the model's embedding.

    Raises:
        CheckpointError: It is no tokenizer, or has more tokens than the model.
    """
    try:
        tokenizer, _ = load_tokenizer(json_text)
    except ValueError as error:
        raise CheckpointError(f"tokenizer.json: {error}") from None
    raw = json.loads(json_text)
    if any(raw.get(key) is not None for key in _DROPPED):
        json_text = json.dumps(raw | dict.fromkeys(_DROPPED), ensure_ascii=False, indent=2)
    missing = [s for s in TOKEN_STRINGS.values() if tokenizer.token_to_id(s) is None]
    if missing:
        tokenizer.add_special_tokens([AddedToken(s, special=True) for s in missing])
        json_text = tokenizer.to_str(pretty=True)
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if largest >= vocab_size:
        raise CheckpointError(
            f"tokenizer.json: has a token {largest}, the model {vocab_size} rows for tokens; "
            "give the checkpoint its own tokenizer"
        )
    return json_text


def addressed(
    checkpoint: Checkpoint, tokenizer_json: str, roles: str | None
) -> tuple[PromptTemplate, str]:
    """Return how prompts address a model, and why so.

    A JanusFlow has Janus's roles. The configs of Janus-1.3B and Janus-Pro-1B are the same, so the
    tokenizer decides between them.

    Args:
        checkpoint: The checkpoint.
        tokenizer_json: Its completed tokenizer.
        roles: A name in TEMPLATES; None takes what the config says, else what suits the family.

    Raises:
        OptionError: There are no such roles.
    """
    if roles is not None:
        if roles not in TEMPLATES:
            raise OptionError(f'roles is "{roles}"; give one of {", ".join(TEMPLATES)}')
        return TEMPLATES[roles], f"{roles}'s, as asked for"
    if checkpoint.prompt is not None:
        return PromptTemplate(**checkpoint.prompt), "as config.json says"
    if isinstance(checkpoint.model, JanusFlow):
        return TEMPLATES["janus"], "a JanusFlow's"
    role = TEMPLATES["janus-pro"].user_role
    if Tokenizer.from_str(tokenizer_json).token_to_id(role) is None:
        return TEMPLATES["janus"], f"the tokenizer has no {role}; else give --roles janus-pro"
    return TEMPLATES[
        "janus-pro"
    ], "the tokenizer has these tokens; of a Janus-1.3B give --roles janus"
