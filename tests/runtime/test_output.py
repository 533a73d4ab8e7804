"""Files at paths that a user names; the same rules in C: tests/native/test_output.py."""

from __future__ import annotations

import errno
import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from janus_edge.runtime import output as outputs
from janus_edge.runtime.errors import OptionError, OutputError
from janus_edge.runtime.image_file import check_fit, encode, format_of, save_image
from janus_edge.runtime.output import append_output, check_writable, write_new, write_output

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
TEXTS = {"Software": "janus-edge 0", "prompt": "ein Stern ★", "seed": "7"}


def settings_in(path: Path) -> dict[str, str]:
    """What docs/cli.md says how to read."""
    with Image.open(path) as image:
        if image.format == "PNG":
            return dict(image.text)
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    return json.loads(comment.removeprefix(b"ASCII\0\0\0"))


@pytest.mark.parametrize(
    ("name", "kind", "loses"),
    [
        ("a.png", "PNG", False),
        ("a", "PNG", False),
        ("a.PNG", "PNG", False),
        ("a.webp", "WEBP", False),
        ("a.jpg", "JPEG", True),
        ("a.JPEG", "JPEG", True),
    ],
)
def test_the_format_of_the_name(tmp_path: Path, name: str, kind: str, loses: bool) -> None:
    for path in (tmp_path / name, tmp_path / f"b{name}"):
        save_image(PIXELS, path, TEXTS)
        with Image.open(path) as image:
            assert image.format == kind
            difference = np.abs(np.asarray(image).astype(int) - PIXELS).max()
        assert (difference > 0) == loses
        assert settings_in(path) == TEXTS
    assert (tmp_path / name).read_bytes() == (tmp_path / f"b{name}").read_bytes()


def test_settings_that_are_no_text() -> None:
    """A prompt whose bytes were no UTF-8, with a zero in it."""
    for kind in ("PNG", "JPEG", "WEBP"):
        file = io.BytesIO(encode(PIXELS, kind, {"prompt": "a\udcff\0b"}))
        assert "a\ufffd\ufffdb" in (
            Image.open(file).text["prompt"]
            if kind == "PNG"
            else json.loads(Image.open(file).getexif().get_ifd(0x8769)[0x9286][8:])["prompt"]
        )


@pytest.mark.parametrize("name", ["a.gif", "a.tiff", "a.jpeg2000", "a.png.tmp", "a.v2"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match=r"is not written; name a \.png"):
        format_of(tmp_path / name)


def test_settings_too_long_for_exif() -> None:
    texts = {"prompt": "star " * 14_000}
    check_fit("PNG", texts)
    for kind in ("JPEG", "WEBP"):
        with pytest.raises(OptionError, match="write a PNG"):
            check_fit(kind, texts)


def test_a_links_target_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    target, link, second = tmp_path / "real.png", tmp_path / "a.png", tmp_path / "b.png"
    target.write_bytes(b"before")
    target.chmod(0o600)
    link.symlink_to("real.png")
    second.symlink_to(link)
    write_output(second, b"after")
    assert target.read_bytes() == b"after" and link.is_symlink() and second.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    dangling = tmp_path / "c.png"
    dangling.symlink_to(tmp_path / "new.png")
    write_output(dangling, b"made")
    assert dangling.is_symlink() and (tmp_path / "new.png").read_bytes() == b"made"
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to("nowhere/out.png")
    for name, says in (("loop", "symbolic links"), ("lost", "no such folder")):
        with pytest.raises(OutputError, match=says):
            check_writable(tmp_path / name)


def test_a_pipe_is_written_through(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    content = os.urandom(300_000)  # more than a pipe holds
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    check_writable(pipe)
    write_output(pipe, content)
    reader.join()
    assert got == [content] and pipe.is_fifo()


def test_a_pipe_that_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_READER_S", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="no program reads this pipe"):
        write_output(tmp_path / "pipe", b"x")


def test_devices_are_written_through(tmp_path: Path) -> None:
    for device in (Path("/dev/null"), Path("/dev/full")):
        before = device.stat()
        check_writable(device)
        if device.name == "full":
            with pytest.raises(OutputError, match="No space left on device"):
                write_output(device, b"x")
        else:
            write_output(device, b"x")
        assert os.path.samestat(before, device.stat())
    (tmp_path / "null").symlink_to("/dev/null")
    write_output(tmp_path / "null", b"x")
    append_output(tmp_path / "null", b"x\n")
    assert (tmp_path / "null").is_char_device()


def test_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / f"{'n' * 246}.png"
    check_writable(path)
    write_output(path, b"x")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    for name in ("n" * 256, "a\0b"):
        with pytest.raises(OutputError):
            check_writable(tmp_path / name)


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.png"
    target.write_bytes(b"precious")

    def full(self: Path, content: bytes) -> None:
        with self.open("wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"out\.png: cannot be written: No space left"):
        write_output(target, b"whole")
    with pytest.raises(OutputError, match="No space left"):
        write_new(target, b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert target.read_bytes() == b"precious"


def test_new_names_are_never_taken_twice(tmp_path: Path) -> None:
    """By many at once."""
    path, taken = tmp_path / "out.png", []
    (tmp_path / "out-2.png").symlink_to("nowhere")  # a link that leads nowhere is no free name

    def write(content: bytes) -> None:
        taken.append((write_new(path, content), content))

    threads = [threading.Thread(target=write, args=(bytes([i]),)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [number for number in range(1, 13) if number != 2]
    assert sorted(name.name for name, _ in taken) == sorted(
        ["out.png", *(f"out-{number}.png" for number in numbers)]
    )
    for name, content in taken:
        assert name.read_bytes() == content
    assert write_new(path, b"", first=1).name == "out-13.png"


def test_new_names_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on FAT."""

    def refuse(old: Path, new: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "out.png"
    for name in ("out.png", "out-1.png"):
        assert write_new(path, name.encode()) == tmp_path / name
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {
        "out.png": b"out.png",
        "out-1.png": b"out-1.png",
    }


def test_lines_are_added(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append_output(path, b"{}\n")
    path.write_bytes(path.read_bytes() + b'{"hal')  # by a writer that was killed
    append_output(path, b"[]\n")
    assert path.read_bytes() == b'{}\n{"hal\n[]\n'


def test_a_folder_with_the_name_of_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-").mkdir()
    write_output(Path("-"), b"pixels")
    assert capfdbinary.readouterr().out == b"pixels"
