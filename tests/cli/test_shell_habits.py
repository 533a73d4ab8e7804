"""generate from files, to named files, in a grid, like another image, with a random seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_edge.cli.image_names import names_of
from janus_edge.cli.main import run
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.image_file import read_texts


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


class Here:
    """Runs ``janus-edge`` in this process, on the small random bundle."""

    def __init__(self, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.bundle, self.capfd = bundle, capfd

    def __call__(self, *words: str) -> str:
        code = run([*words, "--model", str(self.bundle), "--threads", "1"])
        out, err = self.capfd.readouterr()
        assert code == 0, err
        return out

    def fails(self, *words: str) -> str:
        assert run([*words, "--model", str(self.bundle)]) in (1, 2)
        out, err = self.capfd.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and err.startswith("error: "), err
        return err


@pytest.fixture
def cli(bundle_dir: Path, capfd: pytest.CaptureFixture[str]) -> Here:
    return Here(bundle_dir, capfd)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_of_prompts(cli: Here, work: Path) -> None:
    (work / "p.txt").write_text("a star\n\na red circle\n", encoding="utf-8")
    told = cli("generate", "--prompts", "p.txt", "-o", "s.png").splitlines()
    assert told == ["s-1.png\tseed 0\ta star", "s-2.png\tseed 0\ta red circle"]
    cli("generate", "a star", "a red circle", "-o", "t.png")
    assert np.array_equal(pixels(work / "s-2.png"), pixels(work / "t-2.png"))


def test_lines_with_settings_of_their_own(cli: Here, work: Path) -> None:
    lines = [{"prompt": "a star", "seed": 3, "num_images": 2}, {"prompt": "a cross"}]
    text = "\n".join(map(json.dumps, lines))
    (work / "p.jsonl").write_text(text, encoding="utf-8")
    found = cli("generate", "--prompts", "p.jsonl", "--seed", "9", "-o", "{n}-{seed}.png", "--json")
    document = json.loads(found)
    names = [each["file"] for each in document["images"]]
    assert names == ["1-3.png", "2-4.png", "3-9.png"]
    assert [each["prompt"] for each in document["images"]] == ["a star", "a star", "a cross"]
    assert len(document["settings"]) == 2
    cli("generate", "a cross", "--seed", "9", "-o", "own.png")
    assert np.array_equal(pixels(work / "own.png"), pixels(work / "3-9.png"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a star", 'prompt 2 is no JSON object with one "prompt"'),
        ('{"seed": 3}', 'prompt 2 is no JSON object with one "prompt"'),
        ('{"prompt": "a", "prompt": "b"}', 'prompt 2 is no JSON object with one "prompt"'),
        ('{"prompt": "x", "colour": 1}', "prompt 2 has colour; it takes fast, "),
        ('{"prompt": "x", "seed": "3"}', "seed"),
        ('{"prompt": "x", "num_steps": 3}', "num_steps means nothing"),
    ],
)
def test_a_wrong_line_is_named_before_any_work(cli: Here, work: Path, line: str, says: str) -> None:
    (work / "p.jsonl").write_text(f'{{"prompt": "a star"}}\n{line}\n', encoding="utf-8")
    assert says in cli.fails("generate", "--prompts", "p.jsonl")
    assert [path.name for path in work.iterdir()] == ["p.jsonl"]


def test_like_another_image(cli: Here, work: Path) -> None:
    settings = ("--temperature", "0.5", "--guidance-scale", "2")
    cli("generate", "a star", "--seed", "5", *settings, "-o", "a.webp")
    told = cli("generate", "--like", "a.webp", "-o", "b.png")
    assert told == "b.png\tseed 5\ta star\n"
    assert np.array_equal(pixels(work / "a.webp"), pixels(work / "b.png"))
    texts = read_texts(work / "b.png")
    assert texts == read_texts(work / "a.webp")
    cli("generate", "a cross", "--like", "b.png", "--seed", "6", "-o", "c.png")
    other = read_texts(work / "c.png")
    assert (other["prompt"], other["seed"], other["temperature"]) == ("a cross", "6", "0.5")


@pytest.mark.parametrize("kind", ["plain.png", "text.png", "none.png", "odd.png"])
def test_like_what_has_no_settings(cli: Here, work: Path, kind: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    Image.new("RGB", (8, 8)).save(work / "plain.png")
    (work / "text.png").write_text("no image", encoding="utf-8")
    info = PngInfo()
    info.add_text("prompt", "a star")
    info.add_text("seed", "many")
    Image.new("RGB", (8, 8)).save(work / "odd.png", pnginfo=info)
    said = cli.fails("generate", "--like", kind)
    assert kind in said and "Traceback" not in said


def test_a_grid(cli: Here, work: Path) -> None:
    told = cli("generate", "a star", "a cross", "-n", "2", "--grid", "-o", "g.png")
    assert [line.split("\t")[0] for line in told.splitlines()] == ["g.png"] * 4
    cli("generate", "a star", "a cross", "-n", "2", "-o", "s.png")
    parts = [pixels(work / f"s-{number}.png") for number in (1, 2, 3, 4)]
    wanted = np.concatenate([np.concatenate(parts[:2], 1), np.concatenate(parts[2:], 1)])
    assert np.array_equal(pixels(work / "g.png"), wanted)
    images = json.loads(read_texts(work / "g.png")["images"])
    assert [(each["prompt"], each["seed"]) for each in images][1:3] == [
        ("a star", 1),
        ("a cross", 0),
    ]
    assert sorted(path.name for path in work.iterdir()) == [
        "g.png",
        *(f"s-{i}.png" for i in range(1, 5)),
    ]


def test_a_random_seed(cli: Here, work: Path) -> None:
    seeds = [
        cli("generate", "a star", "--seed", "random", "-o", "s.png").split("\t")[1]
        for _ in range(2)
    ]
    assert seeds[0] != seeds[1]
    assert "neither a whole number nor random" in cli.fails("generate", "x", "--seed", "lucky")


def test_nothing_to_draw(cli: Here, work: Path) -> None:
    assert "give a prompt, --prompts FILE or --like IMAGE" in cli.fails("generate")


def test_names() -> None:
    assert names_of(Path("a.png"), [3]) == [Path("a.png")]
    assert names_of(Path("a.png"), [3, 4]) == [Path("a-1.png"), Path("a-2.png")]
    assert names_of(Path("d/{n}-{seed}.png"), [3, 4]) == [Path("d/1-3.png"), Path("d/2-4.png")]
    assert names_of(Path("{n:03}.png"), [3]) == [Path("001.png")]
    assert names_of(Path("a{}.png"), [3]) == [Path("a{}.png")]
    assert names_of(Path("a{.png"), [3]) == [Path("a{.png")]
    refused = {
        "{who}.png": "is no field",
        "{seed}.png": "one name; add",
        "{n!x}.png": "leave other braces out",
        "{}{n}.png": "leave other braces out",
    }
    for odd, says in refused.items():
        with pytest.raises(OptionError, match=says):
            names_of(Path(odd), [3, 3])
