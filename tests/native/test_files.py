"""Files that the C API writes, by the rules of docs/files.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from janus_edge.runtime.files import MARKER, PREFIX, private_folder
from tests.native.conftest import Api
from tests.native.test_images import save
from tests.runtime.test_files import left_by_a_killed_writer, names

PIXELS = np.zeros((4, 4, 3), np.uint8)


def test_a_long_name(api: Api, tmp_path: Path) -> None:
    name = "n" * 246 + ".png"
    for _ in range(2):
        save(api, tmp_path / name, PIXELS)
    assert names(tmp_path) == {name}


def test_what_a_killed_writer_left_goes(api: Api, tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}killed").mkdir()
    half = tmp_path / f"{PREFIX}half"
    half.mkdir()
    (half / MARKER).write_text(
        '{"by": "janus-edge", "process": 1, "target": null}', encoding="utf-8"
    )
    (half / "new").touch()
    save(api, tmp_path / "a.png", PIXELS)
    assert names(tmp_path) == {"a.png"}


def test_what_is_not_ours_or_in_use_stays(api: Api, tmp_path: Path) -> None:
    others = {f"{PREFIX}mine", "a.png.part", ".a.png.1.part"}
    for name in others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").touch()
    with private_folder(tmp_path) as room:
        (room / "new").touch()
        save(api, tmp_path / "a.png", PIXELS)
        assert (room / "new").exists()
    assert names(tmp_path) == {"a.png", *others}


def test_what_a_writer_of_a_folder_left_is_for_python(api: Api, tmp_path: Path) -> None:
    left = left_by_a_killed_writer(tmp_path)
    save(api, tmp_path / "a.png", PIXELS)
    assert (left / "new").exists()
    with private_folder(tmp_path):
        assert not left.exists()


@pytest.mark.parametrize("marker", ["", '{"by": "jan', '{"by": "janus-edge", "proc'])
@pytest.mark.parametrize("is_alone", [True, False])
def test_an_unfinished_marker(api: Api, tmp_path: Path, marker: str, is_alone: bool) -> None:
    left = tmp_path / f"{PREFIX}x"
    left.mkdir()
    (left / MARKER).write_text(marker, encoding="utf-8")
    if not is_alone:
        (left / "precious").touch()
    save(api, tmp_path / "a.png", PIXELS)
    assert left.exists() != is_alone
