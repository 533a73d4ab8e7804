"""Make ``things/artwork`` from published emoji: ``python tools/make_artwork.py``.

It downloads npm packages of pinned content, draws the things that ``tools/things.txt`` names in
each style, and writes one sheet of sprites per style, ``things.json`` and ``NOTICE``. It needs
Pillow, numpy and ``pip install resvg_py==0.5.0``; the package itself needs no resvg.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tools" / "things.txt"
ARTWORK = ROOT / "things" / "artwork"
REGISTRY = "https://registry.npmjs.org"
PACKAGES = {  # name: version, SHA-512 as npm writes it
    "@iconify-json/noto": (
        "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    ),
    "@iconify-json/fluent-emoji-flat": (
        "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    "@iconify-json/fluent-emoji": (
        "1.2.7",
        "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
    ),
    "emojibase-data": (
        "17.0.0",
        "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    ),
}
STYLES = {
    "cartoon": "@iconify-json/noto",
    "flat": "@iconify-json/fluent-emoji-flat",
    "shaded": "@iconify-json/fluent-emoji",
}
SPRITE = 80  # px; a thing's longer side fills it but for a pixel at either end
COLUMNS = 24
DRAWN = 384  # px of the drawing that a sprite is reduced from
STEP = 6  # colours are multiples of it: invisible, and half the size of the files

NOTICE = """The artwork in this folder was made from these works by tools/make_artwork.py: a choice
of their drawings was drawn as pixels, cut to what is visible, reduced to 80 pixels, and put on
sheets.

cartoon.webp   Noto Emoji, Copyright Google LLC, Apache License 2.0 (the file LICENSE of janus-edge,
               http://www.apache.org/licenses/LICENSE-2.0). https://github.com/googlefonts/noto-emoji
flat.webp      Fluent Emoji, flat and colour, Copyright (c) Microsoft Corporation, MIT License.
shaded.webp    https://github.com/microsoft/fluentui-emoji
things.json    Names in English and Korean chosen with the help of Emojibase, MIT License.
               https://github.com/milesj/emojibase, {emojibase}

The MIT License:

{mit}
"""


def download(name: str, cache: Path) -> dict[str, bytes]:
    """Return the files of an npm package by their paths in it.

    Raises:
        SystemExit: The content is not the pinned one.
    """
    version, wanted = PACKAGES[name]
    file = cache / f"{name.rpartition('/')[2]}-{version}.tgz"
    if not file.exists():
        with urllib.request.urlopen(f"{REGISTRY}/{name}/-/{file.name}") as answer:
            file.write_bytes(answer.read())
    data = file.read_bytes()
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != wanted:
        raise SystemExit(f"{file}: not the content that is pinned here; delete it and run again")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [m for m in tar.getmembers() if m.isfile() and m.name.endswith((".json", "NSE"))]
        return {m.name.partition("/")[2]: tar.extractfile(m).read() for m in members}  # type: ignore[union-attr]


def read_list(text: str) -> list[dict[str, Any]]:
    """Return the things of the list: icon, category, names in both languages, plurals, counter."""
    things, category, usual = [], "", ""
    for line in text.splitlines():
        if line.startswith("= "):
            category, usual = line[2:].split(": ")
        elif line and not line.startswith("#"):
            icon, english, korean, *counter = (part.strip() for part in line.split("|"))
            names = [name.strip() for name in english.split(",")]
            singular = [name.partition("/")[0] for name in names]
            marks = [name.partition("/")[2] for name in names]
            number = {"=": "plural", "-": "none"}.get(marks[0], "singular")
            things.append(
                {
                    "id": re.sub("[^a-z0-9]+", "-", singular[0].lower().removeprefix("a ")).strip(
                        "-"
                    ),
                    "category": category,
                    "icon": icon,
                    "number": number,
                    "english": singular,
                    "plurals": [plural(*pair) for pair in zip(singular, marks, strict=True)]
                    if number == "singular"
                    else [],
                    "korean": [name.strip() for name in korean.split(",")],
                    "counter": counter[0] if counter else usual,
                }
            )
    return things


def plural(name: str, mark: str) -> str:
    """Return the plural of a name: the marked one, or by the rule."""
    if mark:
        return mark
    if re.search("[^aeiou]y$", name):
        return name[:-1] + "ies"
    return name + ("es" if re.search("(s|x|z|ch|sh)$", name) else "s")


def svg(icons: dict[str, Any], name: str) -> str:
    """Return an icon of an Iconify set as an SVG document."""
    while name in icons["aliases"]:
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    )


def sprite(document: str) -> np.ndarray:
    """Return a drawing, cut to what is visible and reduced: (SPRITE, SPRITE, 4) uint8."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=document, width=DRAWN, height=DRAWN))
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).astype(np.float32)
    rows, columns = (np.flatnonzero((pixels[..., 3] > 24).any(axis=axis)) for axis in (1, 0))
    part = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = part.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 4), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = part
    square[..., :3] *= square[..., 3:] / 255  # premultiplied: what is hidden must not bleed in
    inner = SPRITE - 2
    small = np.stack(
        [
            np.asarray(Image.fromarray(square[..., c]).resize((inner, inner), Image.Resampling.BOX))
            for c in range(4)
        ],
        axis=-1,
    )
    small[..., :3] *= 255 / np.maximum(small[..., 3:], 1)
    small[small[..., 3] < 1] = 0
    small[..., :3] = np.round(small[..., :3] / STEP) * STEP
    return np.pad(np.clip(small + 0.5, 0, 255).astype(np.uint8), ((1, 1), (1, 1), (0, 0)))


def sheet(sprites: list[np.ndarray]) -> Image.Image:
    """Return sprites side by side, in rows of COLUMNS."""
    rows = -(-len(sprites) // COLUMNS)
    canvas = np.zeros((rows * SPRITE, COLUMNS * SPRITE, 4), np.uint8)
    for number, pixels in enumerate(sprites):
        y, x = number // COLUMNS * SPRITE, number % COLUMNS * SPRITE
        canvas[y : y + SPRITE, x : x + SPRITE] = pixels
    return Image.fromarray(canvas)


def check_names(things: list[dict[str, Any]], labels: dict[str, dict[str, str]]) -> None:
    """Stop if two things share an id or a name; print Emojibase's names that the list lacks.

    Args:
        things: The things.
        labels: For each language, Emojibase's name of each emoji.

    Raises:
        SystemExit: Two things share an id or a name.
    """
    owner: dict[str, str] = {}
    for thing in things:
        for name in {thing["id"], *(n.lower() for n in thing["english"] + thing["korean"])}:
            if owner.setdefault(name, thing["id"]) != thing["id"]:
                raise SystemExit(f"{LIST}: {name}: a name of {owner[name]} and of {thing['id']}")
    if len({thing["id"] for thing in things}) < len(things):
        raise SystemExit(f"{LIST}: two things have one id")
    for language, named in labels.items():
        for thing in things:
            label = named[thing["emoji"]]
            if label.lower() not in (name.lower() for name in thing[language]):
                print(f"{thing['id']}: Emojibase says {label}")


def labels(files: dict[str, bytes], language: str) -> dict[str, str]:
    """Return Emojibase's name of each emoji, by its code without variation selectors."""
    entries = json.loads(files[f"{language}/data.json"])
    return {e["hexcode"].lower().replace("-fe0f", ""): e["label"] for e in entries}


def main() -> None:
    """Download, draw and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "janus-edge-artwork")
    cache = parser.parse_args().cache
    cache.mkdir(parents=True, exist_ok=True)
    files = {name: download(name, cache) for name in PACKAGES}
    things = read_list(LIST.read_text(encoding="utf-8"))
    named = {
        style: json.loads(files[package]["chars.json"])
        for style, package in STYLES.items()
        if style != "shaded"  # its icons have the names of the flat ones
    }
    codes = {icon: code for code, icon in named["cartoon"].items()}
    for thing in things:
        thing["emoji"] = codes[thing.pop("icon")]
    emojibase = files["emojibase-data"]
    check_names(things, {"english": labels(emojibase, "en"), "korean": labels(emojibase, "ko")})
    for style, package in STYLES.items():
        icons = json.loads(files[package]["icons.json"])
        names = [named.get(style, named["flat"])[thing["emoji"]] for thing in things]
        drawn = sheet([sprite(svg(icons, name)) for name in names])
        drawn.save(ARTWORK / f"{style}.webp", lossless=True, quality=60, method=4)
    lines = ",\n".join(json.dumps(thing, ensure_ascii=False) for thing in things)
    (ARTWORK / "things.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    _, _, licence = emojibase["LICENSE"].decode().partition("MIT License\n\n")
    holder, _, mit = licence.partition("\n\n")
    notice = NOTICE.format(emojibase=holder, mit=mit.strip())
    (ARTWORK / "NOTICE").write_text(notice, encoding="utf-8")


if __name__ == "__main__":
    main()
