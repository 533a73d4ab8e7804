"""The headers that native/core is built with, from Debian's packages, on any system.

    python3 native/fetch_headers.py [FOLDER]

Needs nothing but Python. FOLDER is native/headers unless named; it appears whole or not at all. A
package whose SHA-256 is another is refused. On a system that has these headers CMake finds them
without (docs/c-api.md).
"""

from __future__ import annotations

import hashlib
import io
import lzma
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath

MIRRORS = (
    "https://deb.debian.org/debian/pool/main",
    "http://deb.debian.org/debian/pool/main",
    "https://snapshot.debian.org/archive/debian/20260601T000000Z/pool/main",  # keeps old versions
)
# Each package's path, its SHA-256, and what is taken of it.
PACKAGES = (
    (
        "o/onnxruntime/libonnxruntime-dev_1.21.0+dfsg-1_amd64.deb",
        "14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08",
        ("usr/include/onnxruntime/*", "usr/share/doc/libonnxruntime-dev/copyright"),
    ),
    (
        "n/nlohmann-json3/nlohmann-json3-dev_3.11.3-2.1_all.deb",
        "741a6a32f61a14eaf9560ba1814b27da8e78fa3b9bed9e8867ab46316ddf3793",
        ("usr/include/nlohmann/*", "usr/share/doc/nlohmann-json3-dev/copyright"),
    ),
    (
        "libs/libstb/libstb-dev_0.0~git20241109.5c20573+ds-1_amd64.deb",
        "36fbe0c268c76daa655180ea3c9933afc41c6449ec5e53ef3d4907b516147650",
        ("usr/include/stb/stb_image*.h", "usr/share/doc/libstb-dev/copyright"),
    ),
)


def download(path: str, sha256: str) -> bytes:
    """A package from the first mirror that has it. Raises SystemExit, one line."""
    reasons = []
    for mirror in MIRRORS:
        try:
            with urllib.request.urlopen(f"{mirror}/{path}", timeout=60) as answer:
                found: bytes = answer.read()
        except (urllib.error.URLError, OSError) as error:
            reasons.append(f"{mirror}: {error}")
            continue
        if hashlib.sha256(found).hexdigest() == sha256:
            return found
        reasons.append(f"{mirror}: another SHA-256")
    sys.exit(f"fetch_headers: {path}: {'; '.join(reasons)}; install these headers otherwise")


def data_of(package: bytes) -> tarfile.TarFile:
    """The files of a Debian package: an ``ar`` archive that holds a compressed tar."""
    at = len(b"!<arch>\n")
    while at < len(package):
        name, size = package[at : at + 16].strip(), int(package[at + 48 : at + 58])
        if name.startswith(b"data.tar.xz"):
            inside = lzma.decompress(package[at + 60 : at + 60 + size])
            return tarfile.open(fileobj=io.BytesIO(inside))
        at += 60 + size + size % 2
    raise SystemExit("fetch_headers: no data.tar.xz in the package")


def unpack(archive: tarfile.TarFile, wanted: tuple[str, ...], folder: Path) -> None:
    """Write the wanted files below a folder: headers by their path, licenses by their package."""
    for member in archive:
        path = PurePosixPath(member.name)
        fits = any(path.match(each) or path.is_relative_to(each.rstrip("*")) for each in wanted)
        if not member.isfile() or not fits:
            continue
        parts = path.relative_to("usr").parts
        inside = parts[1:] if parts[0] == "include" else ("copyright", parts[-2])
        target = folder.joinpath(*inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        file = archive.extractfile(member)
        assert file is not None
        target.write_bytes(file.read())


def main() -> None:
    """Download, check, unpack, put in place."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "headers"
    if folder.is_dir():
        print(f"{folder} is there already")
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as part:
            for path, sha256, wanted in PACKAGES:
                unpack(data_of(download(path, sha256)), wanted, Path(part) / "headers")
            (Path(part) / "headers").rename(folder)
    except OSError as error:
        sys.exit(f"fetch_headers: {folder}: {error.strerror or error}; name another folder")
    print(folder)


if __name__ == "__main__":
    main()
