"""Batches: every result is that of a single request; a killed run goes on to the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from janus_edge.batch.items import Item, read_items
from janus_edge.batch.results import Results
from janus_edge.batch.run import Outcome, outcomes
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.everyday import load
from janus_edge.runtime.session import Session
from tests.conftest import Cli

PROMPTS = ("a red circle", "two blue squares", "a green star", "three yellow circles")


def write(folder: Path, items: list[dict[str, Any]]) -> Path:
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_bytes().splitlines()]


def content(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("model", "threads"), [("tiny-janus", 1), ("tiny-janus", 2), ("tiny-flow", 1)]
)
def test_results_are_those_of_single_requests(
    cli: Cli, tmp_path: Path, model: str, threads: int
) -> None:
    with load(model, num_threads=1) as own:
        images = [own.draw(PROMPTS[i % 4], seed=i) for i in range(6)]
        images[0].save(tmp_path / "first.png")
        answers = [own.ask(images[0], "what colour is it?"), own.ask(None, "what is a star?")]
    items: list[dict[str, Any]] = [{"prompt": PROMPTS[i % 4], "seed": i} for i in range(6)]
    items[2:2] = [{"question": "what colour is it?", "images": ["first.png"], "id": "colour"}]
    items.append({"question": "what is a star?"})
    source = write(tmp_path, items)
    done = cli("batch", source, tmp_path / "out", "--model", model, "--threads", threads)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "out")
    assert [line["id"] for line in found] == ["1", "2", "colour", "4", "5", "6", "7", "8"]
    assert [found[2]["answer"], found[7]["answer"]] == answers
    assert found[2]["image"] == "../first.png"
    drawn = [line for line in found if "seed" in line and "image" in line]
    for line, image in zip(drawn, images, strict=True):
        pixels = np.asarray(PilImage.open(tmp_path / "out" / line["image"]))
        assert np.array_equal(pixels, image.pixels) and line["seed"] == image.seed
    again = cli("batch", source, tmp_path / "out", "--model", model, "--json")
    assert json.loads(again.stdout)["items"] == 8


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Again and again, until it ends; then with a part of a line and of an image."""
    items = [{"prompt": PROMPTS[i % 4], "seed": i} for i in range(60)]
    source = write(tmp_path, items)

    def command(out: str) -> list[str]:
        words = ["batch", str(source), str(tmp_path / out), "--model", "tiny-janus"]
        return [sys.executable, "-m", "janus_edge", *words, "--threads", "1"]

    subprocess.run(command("whole"), check=True, capture_output=True)
    rng, kills = random.Random(0), 0
    while True:
        with subprocess.Popen(
            command("out"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            # Longer and longer, so that it gets on where starting alone takes seconds.
            begins, ends = time.monotonic(), 1.2 + rng.random() + kills / 10
            while process.poll() is None and time.monotonic() - begins < ends:
                time.sleep(0.01)
            process.kill()
        if process.returncode == 0:
            break
        kills += 1
        assert kills < 50
        lines = tmp_path / "out/results.jsonl"
        if kills % 2 and lines.exists():
            with lines.open("ab") as file:
                file.write(b'{"id": "0')
    assert kills >= 1
    found, whole = content(tmp_path / "out"), content(tmp_path / "whole")
    assert {name: found[name] for name in whole} == whole


def test_stopped(cli: Cli, tmp_path: Path) -> None:
    """The line says what is kept."""
    source = write(tmp_path, [{"prompt": "a star", "seed": i} for i in range(500)])
    words = [sys.executable, "-m", "janus_edge", "batch", str(source), str(tmp_path / "out")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, encoding="utf-8") as process:
        while not list((tmp_path / "out").rglob("*.png")) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate()
    assert process.returncode == 143
    assert said.startswith("stopped; ") and "of 500 are in" in said


def test_items_that_fail(cli: Cli, tmp_path: Path) -> None:
    """The others go on; the command says how many failed."""
    (tmp_path / "no.png").write_bytes(b"no image")
    items = [
        {"prompt": "a star"},
        {"question": "what?", "images": ["gone.png"]},
        {"question": "what?", "images": ["no.png"]},
        {"prompt": "x " * 400},
        {"question": " "},
        {"question": "what?", "images": ["\0"]},
        {"question": "what?", "images": ["\ud800.png"]},
        {"prompt": "a star", "window": 4096},
        {"question": "what is a star?"},
    ]
    done = cli("batch", write(tmp_path, items), tmp_path / "out", "--model", "tiny-janus")
    assert done.returncode == 1 and "7 of 9 items failed" in done.stderr
    found = results(tmp_path / "out")
    assert ["error" in line for line in found] == [False, *[True] * 7, False]
    assert "gone.png" in found[1]["error"] and "tokens long" in found[3]["error"]
    assert "window is 4096" in found[7]["error"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", ":1: no JSON"),
        ("[1]", ":1: no JSON object with"),
        ("{}", ":1: no JSON object with"),
        ('{"prompt": 1}', ":1: its prompt is no text; write a line"),
        ('{"prompt": ["a", "b"]}', ":1: its prompt is no text; write a line"),
        ('{"prompt": "a", "sede": 1}', ":1: has sede; it takes"),
        ('{"prompt": "a", "question": "b"}', ":1: has question"),
        ('{"prompt": "a", "top_p": 9}', ":1: top_p is 9"),
        ('{"prompt": "a", "id": "../x"}', ":1: its id is no name"),
        ('{"prompt": "a", "id": 3}', ":1: its id is no name"),
        ('{"prompt": "a", "id": "2"}\n{"prompt": "b"}', ":2: its id is 2, as of a line before"),
        ('{"question": "a", "images": "a.png"}', ":1: images is no list"),
        ("", "is empty"),
        ("[" * 100_000, ":1: no JSON"),
        ('{"prompt": "a star", "prompt": "a circle"}', ":1: no JSON: a key stands there twice"),
    ],
)
def test_lines_that_are_wrong(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(OptionError, match=says) as caught:
        read_items(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gone.jsonl", "", "/dev/zero", "fifo", "nul\0"])
def test_what_is_no_file_is_not_read(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OptionError, match="name a file of JSON lines"):
        read_items(tmp_path / name)


def test_an_item_that_waits_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose image is deleted while it waits."""
    PilImage.new("RGB", (300, 300), "red").save(tmp_path / "red.png")
    asks = {"question": "what?", "images": ["red.png"]}
    items = read_items(
        write(tmp_path, [*({"prompt": PROMPTS[0], "seed": i} for i in range(8)), asks])
    )
    read, read_images = [], Item.read_images

    def counted(item: Item) -> Any:
        read.append(item.name)
        found = read_images(item)
        (tmp_path / "red.png").unlink()
        return found

    monkeypatch.setattr(Item, "read_images", counted)
    found = list(outcomes(Session(open_bundle("tiny-janus"), num_threads=1), items))
    assert read == ["9"] and found[-1].values["answer"]
    assert all(each.image for each in found[:-1])


def test_a_kill_before_the_first_result(cli: Cli, tmp_path: Path) -> None:
    """Whatever it had made by then, the same command goes on."""
    source, out = write(tmp_path, [{"prompt": "a star"}]), tmp_path / "out"
    (out / ".janus-edge-part-abc").mkdir(parents=True)
    assert cli("batch", source, out, "--model", "tiny-janus").returncode == 0
    for name in ("results.jsonl", "images/1.png"):
        (out / name).unlink()
    (out / "images").rmdir()
    assert cli("batch", source, out, "--model", "tiny-janus").returncode == 0


def test_other_folders_are_left_alone(cli: Cli, tmp_path: Path) -> None:
    """One with files of the user, of other items, of another model; a changed one."""
    source, out = write(tmp_path, [{"prompt": "a star"}]), tmp_path / "out"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear", encoding="utf-8")
    assert "is not empty" in cli("batch", source, tmp_path / "mine").stderr
    assert content(tmp_path / "mine") == {"letter.txt": b"dear"}
    assert cli("batch", source, out, "--model", "tiny-janus").returncode == 0
    before = content(out)
    assert "of another model" in cli("batch", source, out, "--model", "tiny-flow").stderr
    other = write(tmp_path, [{"prompt": "a circle"}])
    assert "other items" in cli("batch", other, out, "--model", "tiny-janus").stderr
    assert content(out) == before
    source = write(tmp_path, [{"prompt": "a star"}])
    (out / "results.jsonl").write_text('{"id": "7"}\n', encoding="utf-8")
    assert "was changed" in cli("batch", source, out, "--model", "tiny-janus").stderr


def test_results_are_training_data(cli: Cli, tmp_path: Path) -> None:
    """What a model draws and answers can be mixed into its fine-tuning."""
    drawings: list[dict[str, Any]] = [{"prompt": "a star", "seed": i} for i in range(3)]
    model = ("--model", "tiny-janus")
    assert cli("batch", write(tmp_path, drawings), tmp_path / "drawn", *model).returncode == 0
    questions = [{"question": "how many?", "images": [f"drawn/images/{i}.png"]} for i in (1, 2)]
    assert cli("batch", write(tmp_path, questions), tmp_path / "said", *model).returncode == 0
    built = cli("data", "build", tmp_path / "drawn/results.jsonl", tmp_path / "old")
    assert "3 samples" in built.stdout + built.stderr, built
    words = ["data", "build", tmp_path / "said/results.jsonl", tmp_path / "old"]
    assert "2 samples" in cli(*words, "--role", "understanding").stdout


def test_a_line_says_that_an_image_is_approximate(cli: Cli, tmp_path: Path) -> None:
    items = [{"prompt": "a star", "fast": True}, {"prompt": "a star"}]
    done = cli("batch", write(tmp_path, items), tmp_path / "out", "--model", "tiny-janus")
    assert done.returncode == 0, done.stderr
    assert [line.get("approximate") for line in results(tmp_path / "out")] == [True, None]


def test_without_ray_nothing_is_made(tmp_path: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from janus_edge.cli.main import main; main()"
    source = write(tmp_path, [{"prompt": "a star"}])
    words = ["batch", source, tmp_path / "out", "--ray", "local"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 1 and "pip install 'janus-edge[ray]'" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


def test_two_at_once(tmp_path: Path) -> None:
    """The second is refused, and spoils nothing."""
    source = write(tmp_path, [{"prompt": "a star", "seed": i} for i in range(100)])
    words = [sys.executable, "-m", "janus_edge", "batch", str(source), str(tmp_path / "out")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, encoding="utf-8") as first:
        while not (tmp_path / "out/results.jsonl").exists() and first.poll() is None:
            time.sleep(0.01)
        time.sleep(0.2)
        second = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
        assert second.returncode == 1 and "another batch writes here" in second.stderr
        first.communicate()
    assert first.returncode == 0
    assert [line["seed"] for line in results(tmp_path / "out")] == list(range(100))


def test_what_failed_or_was_lost_is_done_again(cli: Cli, tmp_path: Path) -> None:
    """A lost image always, a failed item if asked for; the rest stays as it is."""
    asked = {"question": "what is this?", "images": ["late.png"]}
    source = write(tmp_path, [{"prompt": "a star"}, asked, {"prompt": "a circle", "seed": 3}])
    words = ("batch", source, tmp_path / "out", "--model", "tiny-janus")
    assert cli(*words).returncode == 1
    before = content(tmp_path / "out")
    assert "image" not in results(tmp_path / "out")[1]
    (tmp_path / "out/images/3.png").unlink()
    assert cli(*words).returncode == 1
    assert content(tmp_path / "out") == before
    PilImage.new("RGB", (64, 64), "red").save(tmp_path / "late.png")
    assert cli(*words).returncode == 1
    assert cli(*words, "--retry-failed").returncode == 0
    after = results(tmp_path / "out")
    assert after[1]["answer"] and after[1]["image"] == "../late.png"
    assert [after[0], after[2]] == [
        json.loads(line) for line in before["results.jsonl"].splitlines()[::2]
    ]


def test_a_second_try_that_is_stopped_keeps_what_it_made(tmp_path: Path) -> None:
    items = read_items(write(tmp_path, [{"question": str(number)} for number in range(4)]))
    first = Results(tmp_path / "out", items, {})
    first.fill(items, lambda left: (Outcome({"error": "no"}) for _ in left))

    def stopped(left: list[Item]) -> Iterator[Outcome]:
        yield Outcome({"answer": "one"})
        yield Outcome({"answer": "two"})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.redo(items, stopped, failed=True)
    assert [line.get("answer") for line in results(tmp_path / "out")] == ["one", "two", None, None]
    assert first.failed == 2


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (b'{"prompt": "a"}\n{"prompt": "\xff"}\n', "items.jsonl:2: is no UTF-8"),
        (b'{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "X"}\n', ":2: its id is X"),
    ],
)
def test_lines_that_are_refused(cli: Cli, tmp_path: Path, lines: bytes, says: str) -> None:
    (tmp_path / "items.jsonl").write_bytes(lines)
    assert says in cli.fails("batch", tmp_path / "items.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_batch_that_is_left_gives_its_threads_back(
    monkeypatch: pytest.MonkeyPatch, int4_dir: Path
) -> None:
    """While an image is decoded beside passes, they have fewer threads."""
    session, used = Session(open_bundle(int4_dir), num_threads=2), [2]
    monkeypatch.setattr(session._engines, "use", used.append)
    items = [Item(str(i), {"prompt": PROMPTS[i % 4], "seed": i}, int4_dir) for i in range(12)]
    found = outcomes(session, items)
    next(found)
    assert min(used) == 1
    found.close()
    assert used[-1] == 2
