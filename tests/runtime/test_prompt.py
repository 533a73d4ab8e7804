from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer

from janus_edge.runtime.errors import BundleError, PromptError
from janus_edge.runtime.prompt import TOKEN_STRINGS, PromptEncoder, PromptTemplate, Turn
from tests.tokens import bytewise

TEMPLATE = PromptTemplate(user_role="User", assistant_role="Assistant", system_prompt="Be kind.")


def make_encoder(*extra: str) -> PromptEncoder:
    return PromptEncoder.load(bytewise(*extra), TEMPLATE)


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return make_encoder("User")


def read(encoder: PromptEncoder, ids: list[int]) -> str:
    return encoder.tokenizer.decode(ids, skip_special_tokens=False)


def test_generation_has_no_system_prompt(encoder: PromptEncoder) -> None:
    ids = encoder.generation("  a cat \n")
    bos, begin = TOKEN_STRINGS["bos"], TOKEN_STRINGS["begin_of_image"]
    assert read(encoder, ids.tolist()) == f"{bos}User: a cat\n\nAssistant:{begin}"


def test_questions_have_one(encoder: PromptEncoder) -> None:
    ids = encoder.question("why?", 3)
    bos, begin, end = (TOKEN_STRINGS[n] for n in ("bos", "begin_of_image", "end_of_image"))
    image = begin + TOKEN_STRINGS["image_placeholder"] * 3 + end
    expected = f"{bos}Be kind.\n\nUser: {image}\nwhy?\n\nAssistant:"
    assert read(encoder, ids.tolist()) == expected


def test_several_turns_and_images(encoder: PromptEncoder) -> None:
    turns = [
        Turn(message=" what is it? ", num_images=2, answer=" a cat "),
        Turn(message="are you sure?", answer="yes"),
        Turn(message="and this?", num_images=1),
    ]
    bos, eos = TOKEN_STRINGS["bos"], TOKEN_STRINGS["eos"]
    begin, end = TOKEN_STRINGS["begin_of_image"], TOKEN_STRINGS["end_of_image"]
    image = begin + TOKEN_STRINGS["image_placeholder"] * 2 + end + "\n"
    assert read(encoder, encoder.conversation(turns, 2).tolist()) == (
        f"{bos}Be kind.\n\nUser: {image}{image}what is it?\n\nAssistant: a cat{eos}"
        f"User: are you sure?\n\nAssistant: yes{eos}"
        f"User: {image}and this?\n\nAssistant:"
    )


def said(encoder: PromptEncoder, text: str) -> list[str]:
    return list(encoder.stream(iter(encoder.answer(text).tolist())))


def test_ends_where_the_user_would_go_on() -> None:
    """A role that is no token of its own is found in the text, and never shown in part."""
    encoder = make_encoder()
    assert encoder.stop_ids == {encoder.ids["eos"]}
    assert "".join(said(encoder, "a cat\n\nUser: why?")).rstrip() == "a cat"
    assert "".join(said(encoder, "a User")) == "a User"
    assert "".join(said(encoder, "a User is not User")) == "a User is not User"
    never = [len(piece) for piece in said(encoder, "Us two") if piece in ("U", "Us")]
    assert not never


def test_a_role_that_is_a_token_stops(encoder: PromptEncoder) -> None:
    role = encoder.tokenizer.token_to_id("User")
    assert encoder.stop_ids == {encoder.ids["eos"], role}
    assert encoder.stop_string is None


def test_letters_that_some_tokenizers_add_are_text() -> None:
    from tokenizers import AddedToken

    tokenizer = Tokenizer.from_str(make_encoder().tokenizer.to_str())
    tokenizer.add_tokens([AddedToken("ü", special=False)])
    encoder = PromptEncoder.load(tokenizer.to_str(), TEMPLATE)
    assert encoder.tokenizer.token_to_id("ü") in encoder.generation("a grüne Tür")


def test_the_unconditional_row_depends_on_the_length_alone(encoder: PromptEncoder) -> None:
    rows = [encoder.unconditional(encoder.generation(prompt)) for prompt in ("a cat", "a dog")]
    assert rows[0].tolist() == rows[1].tolist()
    assert rows[0][0] == encoder.ids["bos"] and rows[0][-1] == encoder.ids["begin_of_image"]
    assert set(rows[0][1:-1]) == {encoder.ids["pad"]}


def test_streams_whole_characters(encoder: PromptEncoder) -> None:
    text = "né 😀 日本"
    pieces = list(encoder.stream(iter(encoder.answer(text).tolist()[:-1])))
    assert "".join(pieces) == text
    assert len(pieces) == len(text)
    assert not any("\ufffd" in piece for piece in pieces)


def test_each_token_is_decoded_once(
    encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or again while its character is not complete: four bytes at most."""
    decoded: list[int] = []
    decode = PromptEncoder.decode
    monkeypatch.setattr(
        PromptEncoder, "decode", lambda self, ids: (decoded.append(len(ids)), decode(self, ids))[1]
    )
    text = "a cat, two 日本 😀 and a star " * 20
    ids = encoder.answer(text).tolist()[:-1]
    assert "".join(encoder.stream(iter(ids))).rstrip() == text.rstrip()
    assert max(decoded) <= 4 and len(decoded) == len(ids) + 1


def test_pieces_are_those_of_the_whole_text(encoder: PromptEncoder) -> None:
    """Whatever tokens come, in pieces the text is what it is at once."""
    rng = random.Random(0)
    for _ in range(200):
        ids = [rng.randrange(encoder.largest_id + 1) for _ in range(rng.randrange(1, 30))]
        ids = [each for each in ids if each not in encoder.stop_ids]
        assert "".join(encoder.stream(iter(ids))) == encoder.decode(ids).lstrip()


def test_a_cut_character_is_shown_at_the_end(encoder: PromptEncoder) -> None:
    cut = encoder.answer("a😀").tolist()[:-3]
    assert "".join(encoder.stream(iter(cut))).startswith("a")


def test_a_prompt_may_hold_anything(encoder: PromptEncoder) -> None:
    for prompt in ("ünïcödé 日本語", "x" * 1000, "\x00\x07", "{}%s"):
        assert len(encoder.generation(prompt)) > 4


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_empty_text_is_refused(encoder: PromptEncoder, text: str) -> None:
    for build in (encoder.generation, encoder.text, lambda t: encoder.question(t, 1)):
        with pytest.raises(PromptError, match="is empty"):
            build(text)


@pytest.mark.parametrize("token", TOKEN_STRINGS.values())
def test_special_tokens_are_not_text(encoder: PromptEncoder, token: str) -> None:
    with pytest.raises(PromptError, match="leave it out"):
        encoder.generation(f"a cat {token}")


def test_no_tokenizer() -> None:
    for text in ("", "{}", '{"model": 3}'):
        with pytest.raises(BundleError, match=r"tokenizer\.json"):
            PromptEncoder.load(text, TEMPLATE)
