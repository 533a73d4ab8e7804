"""From text to token ids and back: the tokenizer, special tokens, the prompts of the Janus family.

Ids are looked up by token string, as the numbers differ between checkpoints.

Source: the conversation template of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic.dataclasses import dataclass as validated
from tokenizers import Tokenizer

from janus_edge.runtime.arguments import STRICT, Integer, Text, in_range, one_line
from janus_edge.runtime.errors import BundleError, PromptError
from janus_edge.runtime.text import well_formed
from janus_edge.runtime.text_stream import TextStream
from janus_edge.runtime.tokenizer_json import is_panic, load_tokenizer

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
    """How prompts address a model.

    Attributes:
        user_role: Role of the user's messages.
        assistant_role: Role of the answers.
        system_prompt: Comes before questions; prompts of images have none.
    """

    user_role: str
    assistant_role: str
    system_prompt: str


@one_line
@validated(frozen=True, kw_only=True, config=STRICT)
class Turn:
    """A message about some images, and its answer.

    Attributes:
        message: The message.
        num_images: How many images it is about.
        answer: None if it is to be answered.

    Raises:
        OptionError: A value is out of range or of another type.
    """

    message: Text
    num_images: Integer = 0
    answer: Text | None = None

    def __post_init__(self) -> None:
        """Raise OptionError for a number of images that is out of range."""
        in_range("num_images", self.num_images, 0, 1024)


@dataclass(frozen=True, kw_only=True)
class PromptEncoder:
    """Prompts to token ids (int64), for one tokenizer and template.

    Attributes:
        tokenizer: The tokenizer.
        template: Roles and system prompt.
        ids: Ids of the special tokens, by the names in TOKEN_STRINGS.
        stop_ids: Ids that end an answer: end of sentence, and the user's role if it is a token.
        stop_string: Text that ends an answer: the user's role if it is no token, else None.
        largest_id: The tokenizer's largest id.
    """

    tokenizer: Tokenizer
    template: PromptTemplate
    ids: dict[str, int]
    stop_ids: frozenset[int]
    stop_string: str | None
    largest_id: int

    @property
    def placeholder(self) -> int:
        """The id in whose places an image's vectors stand."""
        return self.ids["image_placeholder"]

    @classmethod
    def load(cls, json_text: str, template: PromptTemplate) -> PromptEncoder:
        """Return an encoder for the text of a tokenizer.json.

        Raises:
            BundleError: The tokenizer cannot be read, or lacks a special token.
        """
        try:
            tokenizer, largest = load_tokenizer(json_text)
        except ValueError as error:
            raise BundleError(f"tokenizer.json: {error}; export the bundle again") from None
        ids = {}
        for name, string in TOKEN_STRINGS.items():
            found = tokenizer.token_to_id(string)
            if found is None:
                raise BundleError(f"tokenizer.json: no token {string} ({name})")
            ids[name] = found
        added = tokenizer.get_added_tokens_decoder().items()
        # Only an added token ends an answer, not a role that is a plain word of the vocabulary.
        roles = {id_ for id_, token in added if token.content == template.user_role}
        return cls(
            tokenizer=tokenizer,
            template=template,
            ids=ids,
            stop_ids=frozenset({ids["eos"]} | roles),
            stop_string=None if roles else f"{template.user_role}:",
            largest_id=largest,
        )

    def generation(
        self, prompt: str, history: Sequence[Turn] = (), num_image_tokens: int = 0
    ) -> np.ndarray:
        """Return the ids (T,) of an image's prompt; the first code follows them.

        Args:
            prompt: What to draw.
            history: The turns before, with their answers.
            num_image_tokens: Placeholders per image of the history.

        Raises:
            PromptError: The prompt is empty or holds a token of the model.
        """
        turns = [*history, Turn(message=self._required(prompt, "prompt"))]
        if history:
            before_T = self.conversation(turns, num_image_tokens)
            return np.append(before_T, self.ids["begin_of_image"])
        ids_T = self._ids(self._chat(turns, "", "") + TOKEN_STRINGS["begin_of_image"])
        if ids_T[-1] != self.ids["begin_of_image"]:
            raise _misread("begin_of_image")
        return ids_T

    def conversation(self, turns: Sequence[Turn], num_image_tokens: int) -> np.ndarray:
        """Return the ids (T,) of a conversation; the last turn's answer follows them.

        Args:
            turns: All turns. The last one has no answer yet.
            num_image_tokens: Placeholders per image, one for each image vector.

        Raises:
            PromptError: A message is empty or holds a token of the model.
        """
        for turn in turns:
            self._required(turn.message, "question")
            if turn.answer is not None:
                self._required(turn.answer, "answer")
        image = (
            TOKEN_STRINGS["begin_of_image"]
            + TOKEN_STRINGS["image_placeholder"] * num_image_tokens
            + TOKEN_STRINGS["end_of_image"]
            + "\n"
        )
        ids_T = self._ids(self._chat(turns, self.template.system_prompt, image))
        wanted = num_image_tokens * sum(turn.num_images for turn in turns)
        if np.count_nonzero(ids_T == self.ids["image_placeholder"]) != wanted:
            raise _misread("image_placeholder")
        return ids_T

    def question(self, text: str, num_image_tokens: int) -> np.ndarray:
        """Return the ids (T,) of a question about one image."""
        return self.conversation([Turn(message=text, num_images=1)], num_image_tokens)

    def text(self, message: str) -> np.ndarray:
        """Return the ids (T,) of a message without an image."""
        return self.conversation([Turn(message=message)], 0)

    def answer(self, text: str) -> np.ndarray:
        """Return the ids (T,) of an answer with its end of sentence, as training teaches it."""
        return np.array([*self._encode(f" {text}"), self.ids["eos"]])

    def unconditional(self, ids_T: np.ndarray) -> np.ndarray:
        """Return the ids (T,) of the unconditional row: all but the first and last become pad."""
        out = np.full_like(ids_T, self.ids["pad"])
        out[0], out[-1] = ids_T[0], ids_T[-1]
        return out

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def stream(self, tokens: Iterator[int]) -> Iterator[str]:
        """Yield the text of tokens as they come. See ``TextStream``."""
        made = TextStream(self.decode, self.stop_string)
        for token in tokens:
            if text := made.add(token):
                yield text
            if made.is_over:
                return
        if rest := made.end():
            yield rest

    def _chat(self, turns: Sequence[Turn], system_prompt: str, image: str) -> str:
        """Return the text of a conversation whose last answer is open."""
        t, text = self.template, f"{system_prompt}\n\n" if system_prompt else ""
        for turn in turns:
            text += f"{t.user_role}: {image * turn.num_images}{turn.message.strip()}\n\n"
            text += f"{t.assistant_role}:"
            if turn.answer is not None:
                text += f" {turn.answer.strip()}{TOKEN_STRINGS['eos']}"
        return text

    def _ids(self, text: str) -> np.ndarray:
        return np.array([self.ids["bos"], *self._encode(text)])

    def _encode(self, text: str) -> list[int]:
        try:
            return self.tokenizer.encode(well_formed(text), add_special_tokens=False).ids
        except BaseException as error:
            if not is_panic(error):
                raise
            raise BundleError(
                f"tokenizer.json: cannot read the text: {error}; export the bundle again"
            ) from None

    def _required(self, text: str, what: str) -> str:
        if not text.strip():
            raise PromptError(f"the {what} is empty; say what you want in words")
        for token in self._special():  # the model would read it as the token, not as text
            if token in text:
                raise PromptError(
                    f"the {what} contains {token}, a token of the model; leave it out"
                )
        return text

    def _special(self) -> set[str]:
        """Return the model's own token strings.

        Other added tokens are text: some tokenizers add ü.
        """
        added = self.tokenizer.get_added_tokens_decoder().values()
        return {token.content for token in added if token.special} | set(TOKEN_STRINGS.values())


def _misread(name: str) -> BundleError:
    """Return the error for tables that are well formed and still do not give a prompt's tokens."""
    return BundleError(
        f"tokenizer.json: does not read {TOKEN_STRINGS[name]} as the model's token; export the "
        "bundle again"
    )
