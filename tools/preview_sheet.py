"""Draw the sheet of "Previews" in docs/draw.md: ``python tools/preview_sheet.py FILE``."""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import janus_edge
from janus_edge.runtime.files import atomic_write

PROMPTS = ("a red circle and a blue star", "a green triangle above a purple cross")
PARTS = (0.25, 0.5, 0.75, 1.0)  # of the codes or steps; the last is the finished image
ZOOM, LABEL, GAP = 2, 20, 6  # the last two in px


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
    rows = [shown(model, p) for model in ("tiny-janus", "tiny-flow") for p in PROMPTS]
    columns = [f"{part:.0%}" for part in PARTS[:-1]] + ["finished"]
    side = len(rows[0][0]) * ZOOM
    step, font = side + GAP, ImageFont.load_default()
    size = 2 * len(PARTS) * step, LABEL + 2 * step
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):  # a model's two prompts lie below each other
        for column, (pixels, label) in enumerate(zip(row, columns, strict=True)):
            x = (number // 2 * len(PARTS) + column) * step
            draw.text((x, 4), label, "black", font)
            image = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(image, (x, LABEL + number % 2 * step))
    content = BytesIO()
    sheet.save(content, "png", optimize=True)
    with atomic_write(Path(sys.argv[1])) as part:
        part.write_bytes(content.getvalue())


if __name__ == "__main__":
    main()
