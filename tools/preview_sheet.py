"""Draw the sheet of "Previews" in docs/draw.md: ``python tools/preview_sheet.py FILE``."""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import janus_edge
from janus_edge.runtime.files import atomic_write

PROMPTS = {  # two of each model: a row of the sheet
    "tiny-things": ("a red apple", "a unicorn"),
    "tiny-janus": ("a red circle and a blue star", "a green triangle above a purple cross"),
    "tiny-flow": ("a red circle and a blue star", "a green triangle above a purple cross"),
}
PARTS = (0.25, 0.5, 0.75, 1.0)  # of the codes or steps; the last is the finished image
SIDE, LABEL, GAP = 128, 20, 6  # px


def shown(model: str, prompt: str) -> list[np.ndarray]:
    """Return what an image of seed 3 looks like at each part."""
    session = janus_edge.Session(janus_edge.open_bundle(model))
    previews: dict[int, np.ndarray] = {}
    request = janus_edge.ImageRequest(prompt=prompt, seed=3, previews=True)
    for event in session.generate_image(request):
        if isinstance(event, janus_edge.Preview):
            previews[event.done] = event.pixels
        if isinstance(event, janus_edge.Image):
            finished = event.pixels
    last = max(previews)
    nearest = [min(previews, key=lambda done: abs(done - part * last)) for part in PARTS[:-1]]
    return [*(previews[done] for done in nearest), finished]


def main() -> None:
    """Draw the sheet."""
    columns = ([f"{part:.0%}" for part in PARTS[:-1]] + ["finished"]) * 2
    step, font = SIDE + GAP, ImageFont.load_default()
    sheet = Image.new("RGB", (len(columns) * step, LABEL + len(PROMPTS) * step), "white")
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(columns):
        draw.text((column * step, 4), label, "black", font)
    for row, (model, prompts) in enumerate(PROMPTS.items()):
        images = [pixels for prompt in prompts for pixels in shown(model, prompt)]
        for column, pixels in enumerate(images):
            image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(image, (column * step, LABEL + row * step))
    content = BytesIO()
    sheet.save(content, "png", optimize=True)
    with atomic_write(Path(sys.argv[1])) as part:
        part.write_bytes(content.getvalue())


if __name__ == "__main__":
    main()
