"""je_image_save at paths that a user names (docs/cli.md, "Written files").

tests/runtime/test_output.py holds Python to the same rules.
"""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.native import capi
from tests.native.capi import Api, ApiError
from tests.native.test_images import pixels, save

PIXELS = pixels(40, 30, 3, 7)


def is_image(content: bytes) -> bool:
    with Image.open(io.BytesIO(content)) as image:
        return image.format == "PNG" and np.array_equal(np.asarray(image), PIXELS)


def failed(api: Api, path: Path) -> tuple[str, int]:
    with pytest.raises(ApiError) as caught:
        save(api, path, PIXELS)
    return str(caught.value), caught.value.status


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.webp", "a.tiff"])
def test_other_formats_are_refused(api: Api, tmp_path: Path, name: str) -> None:
    said, status = failed(api, tmp_path / name)
    assert "is not written; name a .png file" in said and status == capi.E_ARGUMENT
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a", "a.PNG", "a.png.new", f"{'n' * 246}.png"])
def test_other_names_are_png(api: Api, tmp_path: Path, name: str) -> None:
    save(api, tmp_path / name, PIXELS)
    assert is_image((tmp_path / name).read_bytes())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_links_target_is_replaced_and_the_link_stays(api: Api, tmp_path: Path) -> None:
    target, link, second = tmp_path / "real.png", tmp_path / "a.png", tmp_path / "b.png"
    target.write_bytes(b"before")
    target.chmod(0o600)
    link.symlink_to("real.png")
    second.symlink_to(link)
    save(api, second, PIXELS)
    assert is_image(target.read_bytes()) and link.is_symlink() and second.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    dangling = tmp_path / "c.png"
    dangling.symlink_to("new.png")
    save(api, dangling, PIXELS)
    assert dangling.is_symlink() and is_image((tmp_path / "new.png").read_bytes())
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to("nowhere/out.png")
    for name in ("loop", "lost"):
        assert failed(api, tmp_path / name)[1] == capi.E_OUTPUT


def test_a_pipe_is_written_through(api: Api, tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    save(api, pipe, PIXELS)
    reader.join()
    assert is_image(got[0]) and pipe.is_fifo()


def test_a_pipe_whose_reader_goes(api: Api, tmp_path: Path) -> None:
    """It does not end the program, nor is the program's own SIGPIPE lost or let loose later."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    large = pixels(400, 400, 3, 8)  # more than a pipe holds

    def read_a_little() -> None:
        descriptor = os.open(pipe, os.O_RDONLY)
        time.sleep(0.2)
        os.close(descriptor)

    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        reader = threading.Thread(target=read_a_little)
        reader.start()
        with pytest.raises(ApiError, match="Broken pipe"):
            save(api, pipe, large)
        reader.join()
        assert signal.SIGPIPE not in signal.sigpending()
    finally:
        signal.signal(signal.SIGPIPE, before)


def test_devices_are_written_through(api: Api, tmp_path: Path) -> None:
    save(api, Path("/dev/null"), PIXELS)
    (tmp_path / "null.png").symlink_to("/dev/null")
    save(api, tmp_path / "null.png", PIXELS)
    assert "No space left on device" in failed(api, Path("/dev/full"))[0]
    assert Path("/dev/null").is_char_device() and Path("/dev/full").is_char_device()
    assert (tmp_path / "null.png").is_char_device()
    assert "is a folder" in failed(api, tmp_path)[0]
