"""What a published checkpoint's tokenizer lacks: special tokens, and how the model is addressed."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from janus_edge.model.tensors import CheckpointError
from janus_edge.runtime.prompt import TOKEN_STRINGS, PromptTemplate

SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
TEMPLATES = {
    "janus": PromptTemplate(
        user_role="User", assistant_role="Assistant", system_prompt=SYSTEM_PROMPT
    ),
    "janus-pro": PromptTemplate(
        user_role="<|User|>", assistant_role="<|Assistant|>", system_prompt=SYSTEM_PROMPT
    ),
}
NAMES = {  # in a folder's name
    "janus-pro": "janus-pro",
    "janus-1.3b": "janus",
    "janusflow": "janus",
}


def complete(json_text: str, vocab_size: int) -> str:
    """The text of a tokenizer.json with every special token that the model needs.

    Raises CheckpointError if it is no tokenizer, or has more tokens than the model.
    """
    try:
        tokenizer = Tokenizer.from_str(json_text)
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"tokenizer.json: not a tokenizer: {error}") from None
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


def template_of(json_text: str, folder: Path) -> PromptTemplate:
    """How a published model is addressed: by the innermost folder that names it, as the hub's
    cache does, else by whether its tokenizer has roles.

    The configs of Janus-1.3B and Janus-Pro-1B are the same, their roles are not.
    """
    for part in reversed(folder.resolve().parts):
        for name, template in NAMES.items():
            if name in part.lower():
                return TEMPLATES[template]
    role = TEMPLATES["janus-pro"].user_role
    has_roles = Tokenizer.from_str(json_text).token_to_id(role) is not None
    return TEMPLATES["janus-pro" if has_roles else "janus"]
