"""--json: one document of the keys that docs/cli.md lists; completion and the module's names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import janus_edge
from janus_edge.runtime.bundle import open_bundle

DOCS = Path(__file__).resolve().parents[2] / "docs/cli.md"


def documented(command: str, *, inner: bool = False) -> set[str]:
    """The keys in a command's row; inner: those in brackets, of its parts."""
    row = next(
        line for line in DOCS.read_text(encoding="utf-8").splitlines() if f"| `{command}` |" in line
    )
    cell = row.split("|")[2]
    chosen = re.findall(r"\([^()]*\)", cell) if inner else [re.sub(r"\([^()]*\)", "", cell)]
    return set(re.findall(r"`(\w+)`", " ".join(chosen)))


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and done.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(done.stdout, parse_constant=pytest.fail)
    return found


def test_generate_and_ask(cli, bundle_dir: Path, tmp_path: Path) -> None:
    words = ("--model", bundle_dir, "--json")
    drawn = document(cli("generate", "ein Stern ★", "a circle", "-n", "2", "--seed", "5", *words))
    assert set(drawn) == documented("generate")
    assert set(drawn["images"][0]) == documented("generate", inner=True)
    assert [(p["file"], p["prompt"], p["seed"]) for p in drawn["images"]] == [
        ("out-1.png", "ein Stern ★", 5),
        ("out-2.png", "ein Stern ★", 6),
        ("out-3.png", "a circle", 5),
        ("out-4.png", "a circle", 6),
    ]
    assert all((tmp_path / p["file"]).is_file() for p in drawn["images"])
    assert drawn["settings"]["temperature"] == 0.9 and drawn["timings_ms"]["total"] > 0
    plain = cli("ask", "out-1.png", "what?", "--model", bundle_dir, "--max-tokens", "4").stdout
    told = document(cli("ask", "out-1.png", "what?", "--max-tokens", "4", *words))
    assert set(told) == documented("ask") and told["answer"] == plain.strip()
    assert told["images"] == ["out-1.png"] and told["bundle"] == "random"


def test_what_lists(cli, bundle_dir: Path) -> None:
    for words in (("models", "list", "--json"), ("models", "--json")):
        bundles = document(cli(*words))["bundles"]
        assert all(set(each) == documented("models list", inner=True) for each in bundles)
        assert {"tiny-janus", "tiny-flow"} <= {each["name"] for each in bundles}
    inspected = document(cli("inspect", bundle_dir, "--json"))
    opened = open_bundle(bundle_dir)
    assert inspected["sha256"] == opened.sha256 and inspected["family"] == "janus"
    assert inspected["components"]["decoder"]["size_bytes"] == opened.num_bytes("decoder")
    shown = cli("inspect", bundle_dir).stdout
    assert re.search(rf"decoder +{opened.num_bytes('decoder') / 1e6:.2f} ", shown)
    told = document(cli("doctor", bundle_dir, "--json"))
    assert set(told) == documented("doctor")
    assert (told["devices"]["cpu"], told["auto"]) == ("yes", "cpu")


def test_eval(cli, tmp_path: Path) -> None:
    words = ("--num-prompts", "6", "--num-questions", "6", "--record", "r.jsonl", "--json")
    told = document(cli("eval", "shapes", *words))
    line = (tmp_path / "r.jsonl").read_text(encoding="utf-8")
    assert told == json.loads(line, parse_constant=lambda _: None)  # NaN of no prompt


def test_only_one_can_have_standard_output(cli) -> None:
    for words in (
        ("generate", "x", "-o", "-", "--json"),
        ("bench", "--record", "-", "--json"),
        ("eval", "shapes", "--record", "-", "--json"),
        ("eval", "shapes", "--record", "-", "--sheet", "-"),
    ):
        assert "want standard output" in cli.fails(*words)


def test_records_go_to_standard_output(cli) -> None:
    words = ("--num-prompts", "6", "--num-questions", "6", "--record", "-")
    told = cli("eval", "shapes", *words)
    assert json.loads(told.stdout)["schema"].startswith("shapes/") and "geneval" in told.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    env = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    run = [sys.executable, "-m", "janus_edge"]
    shown = subprocess.run(
        [*run, "--show-completion", shell],
        env=env,
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    assert "_JANUS_EDGE_COMPLETE" in shown
    if shell == "bash":
        words = {"_JANUS_EDGE_COMPLETE": "complete_bash", "COMP_WORDS": "janus-edge ge"}
        found = subprocess.run(
            run, env=env | words | {"COMP_CWORD": "1"}, capture_output=True, encoding="utf-8"
        )
        assert found.stdout.split() == ["generate"]


def test_the_modules_names() -> None:
    assert dir(janus_edge) == sorted(janus_edge.__all__)
    told = subprocess.run(
        [sys.executable, "-m", "janus_edge", "--version"], capture_output=True, encoding="utf-8"
    )
    assert told.stdout == f"{janus_edge.__version__}\n"
