"""Text to token ids and back: the tokenizer, the special tokens, the prompts of the Janus family.

Ids are looked up by token string; the numbers differ between checkpoints. Source of the format:
the published checkpoints' conversation template.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from janus_edge.runtime.errors import BundleError, PromptError

TOKEN_STRINGS = {
    "bos": "<｜begin▁of▁sentence｜>",
    "eos": "<｜end▁of▁sentence｜>",
    "pad": "<｜▁pad▁｜>",
    "image_placeholder": "<image_placeholder>",
    "begin_of_image": "<begin_of_image>",
    "end_of_image": "<end_of_image>",
}


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """Roles and system prompt of a model; the latter is for questions only."""

    user_role: str
    assistant_role: str
    system_prompt: str


@dataclass(frozen=True, kw_only=True)
class PromptEncoder:
    """Prompts to ids (int64) for one tokenizer and template."""

    tokenizer: Tokenizer
    template: PromptTemplate
    ids: dict[str, int]  # of TOKEN_STRINGS' names and user_role

    @classmethod
    def load(cls, json_text: str, template: PromptTemplate) -> PromptEncoder:
        """From the text of a tokenizer.json. Raises BundleError if a special token is missing."""
        try:
            tokenizer = Tokenizer.from_str(json_text)
        except Exception as error:  # the library raises bare Exception
            raise BundleError(f"tokenizer.json: not a tokenizer: {error}") from None
        ids = {}
        for name, string in (TOKEN_STRINGS | {"user_role": template.user_role}).items():
            found = tokenizer.token_to_id(string)
            if found is None:
                raise BundleError(f"tokenizer.json: no token {string} ({name})")
            ids[name] = found
        return cls(tokenizer=tokenizer, template=template, ids=ids)

    def generation(self, prompt: str) -> np.ndarray:
        """Ids (T,) that end where the first code follows. Raises PromptError if empty."""
        return self._ids(
            self._chat(_required(prompt, "prompt"), "") + TOKEN_STRINGS["begin_of_image"]
        )

    def question(self, text: str, num_image_tokens: int) -> np.ndarray:
        """Ids (T,) with a placeholder for each image vector. Raises PromptError if empty."""
        image = (
            TOKEN_STRINGS["begin_of_image"]
            + TOKEN_STRINGS["image_placeholder"] * num_image_tokens
            + TOKEN_STRINGS["end_of_image"]
        )
        return self._ids(
            self._chat(f"{image}\n{_required(text, 'question')}", self.template.system_prompt)
        )

    def text(self, message: str) -> np.ndarray:
        """Ids (T,) of a message without a picture."""
        return self._ids(self._chat(_required(message, "message"), self.template.system_prompt))

    def follow_up(self, text: str) -> np.ndarray:
        """Ids (T,) of one more user turn, after an answer and its eos."""
        return np.array(self._encode(self._chat(_required(text, "question"), "")))

    def answer(self, text: str) -> np.ndarray:
        """Ids (T,) of an assistant's answer, eos included: what training teaches to say."""
        return np.array([*self._encode(f" {text}"), self.ids["eos"]])

    def unconditional(self, ids_T: np.ndarray) -> np.ndarray:
        """The guidance row: every id but the first and the last replaced by pad."""
        out = np.full_like(ids_T, self.ids["pad"])
        out[0], out[-1] = ids_T[0], ids_T[-1]
        return out

    def decode(self, ids: list[int]) -> str:
        """Ids to text, special tokens left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def stream(self, tokens: Iterator[int]) -> Iterator[str]:
        """Ids to pieces of text as they come, never the middle of a character."""
        said: list[int] = []
        shown = ""
        for token in tokens:
            said.append(token)
            text = self.decode(said).lstrip()
            if len(text) > len(shown) and not text.endswith("\ufffd"):
                yield text[len(shown) :]
                shown = text
        if rest := self.decode(said).lstrip()[len(shown) :]:
            yield rest

    def _chat(self, message: str, system_prompt: str) -> str:
        """One user turn and the open assistant turn."""
        t = self.template
        turns = [f"{t.user_role}: {message.strip()}", f"{t.assistant_role}:"]
        return "\n\n".join([system_prompt, *turns] if system_prompt else turns)

    def _ids(self, text: str) -> np.ndarray:
        return np.array([self.ids["bos"], *self._encode(text)])

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def _required(text: str, what: str) -> str:
    if not text.strip():
        raise PromptError(f"the {what} is empty; say what you want in words")
    for token in TOKEN_STRINGS.values():
        if token in text:  # it would be read as the token, not as text
            raise PromptError(f"the {what} contains {token}, a token of the model; leave it out")
    return text
