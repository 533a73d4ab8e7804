from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def test_draws_and_says_how(cli, bundle_dir: Path, tmp_path: Path) -> None:
    done = cli("generate", "three red circles", "--model", bundle_dir, "--seed", "7")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out.png\tseed 7\tthree red circles\n"
    with Image.open(tmp_path / "out.png") as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")
        assert image.text["prompt"] == "three red circles"
        assert image.text["seed"] == "7"
        assert image.text["guidance_scale"] == "3.0"  # the manifest's
        assert image.text["temperature"] == "0.9"
        assert image.text["model"] == "random"
        assert "approximate" not in image.text and "approximate" not in done.stderr


def test_fast_says_that_it_is_approximate(cli, bundle_dir: Path, tmp_path: Path) -> None:
    words = ["generate", "a star", "--model", bundle_dir, "--fast", "-o", "a.png"]
    assert cli(*words).stderr.startswith("approximate; ms: ")
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["approximate"] == "yes"
    assert json.loads(cli(*words, "--json").stdout)["approximate"] is True


def test_same_command_same_bytes(cli, bundle_dir: Path, tmp_path: Path) -> None:
    words = ["generate", "a star", "--model", bundle_dir, "--temperature", "1.5"]
    for name in ("a.png", "b.png"):
        assert cli(*words, "-o", name).returncode == 0
    assert cli(*words, "-o", "c.png", "--seed", "1").returncode == 0
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b != c


def test_several_images_and_previews(cli, bundle_dir: Path, tmp_path: Path) -> None:
    done = cli(
        *("generate", "a star", "-n", "2", "-o", "s.png", "--previews", "p/q"),
        *("--model", bundle_dir),
    )
    lines = ["s-1.png\tseed 0\ta star", "s-2.png\tseed 1\ta star"]
    assert done.stdout.splitlines() == lines
    names = sorted(path.name for path in (tmp_path / "p" / "q").iterdir())
    assert names == [f"{i:03}-{n:04}.png" for i in range(2) for n in (4, 8, 12, 16)]
    with Image.open(tmp_path / "p" / "q" / "001-0008.png") as half:
        pixels = np.asarray(half)
    assert (pixels[16:] == 127).all() and not (pixels[:16] == 127).all()


def test_second_image_is_the_first_of_the_next_seed(cli, bundle_dir: Path, tmp_path: Path) -> None:
    cli("generate", "a star", "-n", "2", "-o", "s.png", "--seed", "3", "--model", bundle_dir)
    cli("generate", "a star", "-o", "t.png", "--seed", "4", "--model", bundle_dir)
    assert (tmp_path / "s-2.png").read_bytes() == (tmp_path / "t.png").read_bytes()


def test_several_prompts_are_drawn_together_as_each_alone(
    cli, bundle_dir: Path, tmp_path: Path
) -> None:
    """Prompts of different lengths in one batch: neither changes the other's image."""
    prompts = ["a star", "two small green circles and a big blue square on a black background"]
    words = ["--model", str(bundle_dir), "-n", "2", "--seed", "7"]
    assert cli("generate", *prompts, *words, "-o", "both.png").returncode == 0
    for i, prompt in enumerate(prompts):
        assert cli("generate", prompt, *words, "-o", "one.png").returncode == 0
        for image in (1, 2):
            both = Image.open(tmp_path / f"both-{2 * i + image}.png")
            alone = Image.open(tmp_path / f"one-{image}.png")
            assert both.tobytes() == alone.tobytes()
            assert both.text == alone.text and both.text["prompt"] == prompt


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["generate", " "], "the prompt is empty"),
        (["generate", "star " * 600], "make it shorter"),
        (["generate", "x", "-o", "no/such/out.png"], "no such folder"),
        (["generate", "x", "-o", "."], "is a folder"),
        (["generate", "x", "-n", "0"], "num_images is 0"),
        (["generate", "x", "--seed", "-1"], "seed is -1"),
        (["generate", "x", "--guidance-scale", "nan"], "guidance_scale is nan"),
        (["generate", "x", "--temperature", "-1"], "temperature is -1"),
        (["generate", "x", "--top-p", "0"], "top_p is 0"),
        (["generate", "x", "--seed", "many"], "--seed"),
        (["generate", "x", "--sampler", "fast"], "--sampler"),
        (["generate"], "prompt"),
        (["draw", "x"], "draw"),
        (["generate", "x", "--previews", "file"], "file"),
    ],
)
def test_bad_input_is_one_line(
    cli, bundle_dir: Path, tmp_path: Path, words: list[str], says: str
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    model = ["--model", str(bundle_dir)] if words[0] == "generate" else []
    assert says in cli.fails(*words, *model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_unwritable_folder(cli, bundle_dir: Path) -> None:
    assert "/proc/out.png" in cli.fails(
        "generate", "x", "-o", "/proc/out.png", "--model", bundle_dir
    )


def test_debug_shows_the_traceback(cli, bundle_dir: Path) -> None:
    done = cli("generate", "", "--model", bundle_dir, "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_flipped_byte_in_any_file_is_caught(cli, bundle_dir: Path, tmp_path: Path) -> None:
    """One command for the words of the error; every file by the function the command calls."""
    from janus_edge.runtime.bundle import open_bundle
    from janus_edge.runtime.errors import BundleError

    copy = tmp_path / "copy"
    shutil.copytree(bundle_dir, copy)
    open_bundle(copy)
    rng = np.random.default_rng(0)
    for path in sorted(copy.iterdir()):
        whole = path.read_bytes()
        for at in (0, len(whole) - 1, int(rng.integers(len(whole)))):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            with pytest.raises(BundleError, match="damaged"):
                open_bundle(copy)
        path.write_bytes(whole[:-1])
        with pytest.raises(BundleError, match="damaged"):
            open_bundle(copy)
        path.unlink()
        with pytest.raises(BundleError):
            open_bundle(copy)
        path.write_bytes(whole)
    (copy / "decoder.onnx").write_bytes(b"")
    assert "decoder.onnx: damaged" in cli.fails("generate", "x", "--model", copy)


def test_missing_bundle(cli, tmp_path: Path) -> None:
    assert "no such bundle" in cli.fails("generate", "x", "--model", "nowhere")
    assert "no bundle is named" in cli.fails("generate", "x", "--model", "")
    (tmp_path / "empty").mkdir()
    assert "no manifest.json" in cli.fails("generate", "x", "--model", "empty")


def test_a_flow_is_drawn_by_the_same_command(cli, flow_bundle_dir: Path, tmp_path: Path) -> None:
    words = ("generate", "a blue square left of a yellow star", "--model", flow_bundle_dir)
    flow = ("--steps", "3", "--solver", "ab2", "--shift", "2", "--guidance-end", "0.8")
    done = cli(*words, *flow, "--previews", "p")
    assert done.returncode == 0 and done.stdout.startswith("out.png\tseed 0\ta blue square")
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (32, 32)
        told = {"num_steps": "3", "solver": "ab2", "shift": "2.0", "guidance_end": "0.8"}
        assert image.text["guidance_scale"] == "2.0"  # the manifest's
        assert {key: image.text[key] for key in told} == told
        assert "temperature" not in image.text
    names = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert names == ["000-0001.png", "000-0002.png", "000-0003.png"]
    first = (tmp_path / "out.png").read_bytes()
    assert cli(*words, *flow).stdout.startswith("out-1.png\t")
    assert (tmp_path / "out-1.png").read_bytes() == first
    line = cli.fails(*words, "--temperature", "1")
    assert "temperature means nothing to random-flow, a janusflow bundle" in line
    assert 'solver is "rk4"; give one of' in cli.fails(*words, "--solver", "rk4")
    assert cli(*words, "--reference", "--steps", "2", "-o", "r.png").returncode == 0
    with Image.open(tmp_path / "r.png") as image:
        assert (image.text["solver"], image.text["num_steps"]) == ("euler", "2")


def test_prompts_in_a_locale_without_utf8(bundle_dir: Path, tmp_path: Path) -> None:
    """An argument's bytes are UTF-8 all the same; other bytes are U+FFFD (docs/prompts.md)."""
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-m", "janus_edge", "generate", "--model", bundle_dir]
    prompts = ["ein Stern ★".encode(), b"a\xff b"]
    subprocess.run([*words, *prompts], cwd=tmp_path, env=env, check=True, capture_output=True)
    for name, expected in (("out-1.png", "ein Stern ★"), ("out-2.png", "a\ufffd b")):
        with Image.open(tmp_path / name) as image:
            assert image.text["prompt"] == expected


def test_prompts_from_standard_input(bundle_dir: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "janus_edge", "generate", "-", "--model", bundle_dir]

    def run(given: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(words, cwd=tmp_path, input=given, capture_output=True)

    done = run("\ufeffa star\r\n\n ein Stern ★\n".encode())
    lines = done.stdout.decode().splitlines()
    assert lines == ["out-1.png\tseed 0\ta star", "out-2.png\tseed 0\tein Stern ★"]
    assert run(b"\n \n").stderr == b"error: standard input is empty; give it a prompt a line\n"
    assert b"standard input is longer than 4 MB" in run(b"star " * 1_000_000).stderr
    assert run(b"a star\n" * 1025).stderr.startswith(b"error: number of prompts is 1025")


def test_an_image_to_standard_output(bundle_dir: Path, tmp_path: Path) -> None:
    """The image's bytes and nothing else; also by another path to it."""
    words = [sys.executable, "-m", "janus_edge", "generate", "a star", "--model", bundle_dir]
    file = subprocess.run([*words, "-o", "a.png"], cwd=tmp_path, check=True, capture_output=True)
    expected = (tmp_path / "a.png").read_bytes()
    for name in ("-", "/dev/stdout"):
        done = subprocess.run([*words, "-o", name], cwd=tmp_path, check=True, capture_output=True)
        assert done.stdout == expected
        assert done.stderr.startswith(b"-\tseed 0\ta star\nms: ")
    assert file.stdout == b"a.png\tseed 0\ta star\n"
    done = subprocess.run([*words, "-o", "./-"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "-").read_bytes() == expected
    two = subprocess.run([*words, "-n", "2", "-o", "-"], cwd=tmp_path, capture_output=True).stdout
    assert two.startswith(expected) and two[len(expected) :].startswith(b"\x89PNG")
