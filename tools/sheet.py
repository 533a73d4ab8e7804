"""Draw a sheet of images with their prompts, seed 0: the README's and those of the docs.

    python tools/sheet.py docs/sheet.png --font NanumGothic.ttf
    python tools/sheet.py docs/sheet-shapes.png --model tiny-janus

The font must have Hangul for the prompts of tiny-things (Debian: fonts-nanum).
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import janus_edge
from janus_edge.runtime.files import atomic_write

PROMPTS = {
    "tiny-janus": (
        "three red circles",
        "a blue square left of a yellow star",
        "a large green triangle",
        "two pink crosses on a black background",
        "an orange star and a purple circle",
        "a cyan cross above a red triangle",
        "five small yellow squares on a grey background",
        "a green circle below a pink star",
    ),
    # What a newcomer would type; written down before the model had drawn any.
    "tiny-things": (
        "a red apple",
        "고양이",
        "a dog",
        "two bananas",
        "a birthday cake",
        "a heart",
        "a house",
        "무지개",
        "a rocket",
        "a cat left of a dog",
        "a smiling face",
        "a tree",
        "피자 한 조각",
        "a cup of coffee",
        "a unicorn",
        "three strawberries",
        "a fish on a blue background",
        "a car",
        "꽃",
        "a guitar",
        "a soccer ball",
        "the sun",
        "강아지 두 마리",
        "a robot",
    ),
}
COLUMNS, SIDE, LABEL, GAP = {8: 4, 24: 6}, 192, 34, 12  # the last three in px


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Return the text in as many lines as the width in px needs."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def draw(session: janus_edge.Session, prompt: str) -> np.ndarray:
    """Return the pixels of the prompt's image with seed 0."""
    request = janus_edge.ImageRequest(prompt=prompt)
    (event,) = (e for e in session.generate_image(request) if isinstance(e, janus_edge.Image))
    return event.pixels


def main() -> None:
    """Draw all prompts and lay out the images with the prompts below."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", choices=tuple(PROMPTS), default="tiny-things")
    parser.add_argument("--bundle", type=Path, help="another bundle of this model")
    parser.add_argument("--font", help="TrueType file of the labels")
    options = parser.parse_args()
    session = janus_edge.Session(janus_edge.open_bundle(options.bundle or options.model))
    font = ImageFont.truetype(options.font, 14) if options.font else ImageFont.load_default(13)
    prompts = PROMPTS[options.model]
    columns = COLUMNS[len(prompts)]
    size = (columns * (SIDE + GAP) + GAP, len(prompts) // columns * (SIDE + LABEL + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for index, prompt in enumerate(prompts):
        x = GAP + index % columns * (SIDE + GAP)
        y = GAP + index // columns * (SIDE + LABEL + GAP)
        image = Image.fromarray(draw(session, prompt))
        sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.NEAREST), (x, y))
        pen.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline="lightgrey")
        pen.multiline_text((x, y + SIDE + 2), wrapped(prompt, font, SIDE), "black", font, spacing=1)
    with atomic_write(options.output) as part:
        sheet.save(part, format="PNG", optimize=True)


if __name__ == "__main__":
    main()
