"""Build ``.types/janus_edge``, the link tree that mypy and import-linter read.

The packages lie in the repository's root under short names; these tools want them under the import
name.
"""

import os
import tomllib
from pathlib import Path

root = Path(__file__).resolve().parent.parent
mapping = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "setuptools"
]["package-dir"]
tree = root / ".types" / "janus_edge"
tree.mkdir(parents=True, exist_ok=True)
for link in tree.iterdir():
    if link.is_symlink():
        link.unlink()
for name, folder in mapping.items():
    if name == "janus_edge":
        links = {tree / file.name: file for file in (root / folder).iterdir() if file.is_file()}
    else:
        links = {tree / name.removeprefix("janus_edge."): root / folder}
    for link, target in links.items():
        link.symlink_to(os.path.relpath(target, tree))
