"""Draw the README's sheet of images: ``python tools/sheet.py docs/sheet.png``."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import janus_edge
from janus_edge.runtime.files import atomic_write

PROMPTS = (
    "three red circles",
    "a blue square left of a yellow star",
    "a large green triangle",
    "two pink crosses on a black background",
    "an orange star and a purple circle",
    "a cyan cross above a red triangle",
    "five small yellow squares on a grey background",
    "a green circle below a pink star",
)
COLUMNS, ZOOM, LABEL, GAP = 4, 3, 34, 12  # the last two in px


def wrapped(text: str, font: ImageFont.ImageFont, width: int) -> str:
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
    session, font = janus_edge.Session(janus_edge.open_bundle()), ImageFont.load_default(13)
    images = [Image.fromarray(draw(session, prompt)) for prompt in PROMPTS]
    side = images[0].width * ZOOM
    rows = -(-len(PROMPTS) // COLUMNS)
    size = (COLUMNS * (side + GAP) + GAP, rows * (side + LABEL + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for index, (prompt, image) in enumerate(zip(PROMPTS, images, strict=True)):
        x = GAP + index % COLUMNS * (side + GAP)
        y = GAP + index // COLUMNS * (side + LABEL + GAP)
        sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (x, y))
        pen.rectangle((x, y, x + side - 1, y + side - 1), outline="lightgrey")
        pen.multiline_text((x, y + side + 2), wrapped(prompt, font, side), "black", font, spacing=1)
    with atomic_write(Path(sys.argv[1])) as part:
        sheet.save(part, format="PNG", optimize=True)


if __name__ == "__main__":
    main()
