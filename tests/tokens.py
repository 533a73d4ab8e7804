"""Tokenizers of the kinds that bundles have."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as splitters

from janus_edge.runtime.prompt import TOKEN_STRINGS

ROOT = Path(__file__).resolve().parent.parent
TEXTS = [
    "一只可爱的猫坐在窗台上看着外面的雨。请描述这张图片的内容，谢谢！",
    "Привет, как дела? Нарисуй кошку на крыше под звёздным небом.",
    "日本語のテキスト。猫が好きです。한국어 텍스트입니다",
    "Ünïcödé façade naïve café Ärger Straße",
    "😀🎨🚀",
]


@cache
def tiny() -> str:
    """tiny-janus's: lower case, GPT-2's splitting."""
    return (ROOT / "checkpoints/tiny-janus/tokenizer.json").read_text(encoding="utf-8")


@cache
def deepseek_like() -> str:
    """With DeepSeek's chain of splits and its kinds of added tokens, as a published tokenizer.json
    has them; trained on some of our own files."""
    letters = "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿΑ-ΡΣ-ϵЀ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-ᏵḀ-ἕ"
    chain = [
        *(_split(pattern) for pattern in ("[\r\n]", rf"\s?[{letters}]+")),
        _split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
        *(_split(pattern) for pattern in (r"\s+$", "[一-龥ࠀ-一가-퟿]+")),
        splitters.Digits(individual_digits=True),
        splitters.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Sequence([])
    made.pre_tokenizer = splitters.Sequence(chain)
    made.decoder = decoders.ByteLevel()
    texts = [
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))
    ] + TEXTS * 20
    trainer = trainers.BpeTrainer(vocab_size=3000, show_progress=False)
    made.train_from_iterator(texts, trainer)
    specials = list(TOKEN_STRINGS.values())
    made.add_special_tokens([AddedToken(s, special=True, normalized=True) for s in specials[:3]])
    odd = ("õ", "÷", "Á", "öö", "<begin")
    made.add_tokens([AddedToken(s, special=False, normalized=True) for s in odd])
    roles = (*specials[3:], "<|User|>", "<|Assistant|>")
    made.add_tokens([AddedToken(s, special=False, normalized=False) for s in roles])
    return str(made.to_str())


def bytewise(*extra: str) -> str:
    """Every byte is a token, so that text can be read back from ids."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = splitters.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=[*TOKEN_STRINGS.values(), *extra],
        initial_alphabet=splitters.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([], trainer)
    return str(made.to_str())


def _split(pattern: str) -> splitters.Split:
    return splitters.Split(Regex(pattern), "isolated")
