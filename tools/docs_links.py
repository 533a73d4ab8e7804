"""Give the docs site what its pages link to outside docs/: pages, records, sources.

A hook of mkdocs (mkdocs.yml). On GitHub ``../bench/REPORT.md`` leads from docs/ to the report. The
site has the files of docs/ at its root, so there the report is a page ``bench/REPORT.md``, and a
record or source a file that opens as text. A link to what does not exist stays as it is, and
``mkdocs build --strict`` refuses it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "bench/REPORT.md", "examples/README.md")
_LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(\))")


def _target(path: str, link: str) -> str | None:
    """Return where a link of a file leads, from the repository's root; None if to nothing."""
    found = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return found if not found.startswith("..") and (ROOT / found).is_file() else None


def _on_site(path: str) -> str:
    """Return a repository's path as a path of the site."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/ and whatever file a page links to."""
    pages = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    wanted = set(PAGES)
    for path in (*pages, *PAGES):
        text = (ROOT / path).read_text(encoding="utf-8")
        wanted |= {found for link in _LINK.findall(text) if (found := _target(path, link[1]))}
    for path in sorted(wanted):
        if _on_site(path) not in files.src_uris:
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between files of the site."""
    here = page.file.src_uri
    source = here if here in PAGES else f"docs/{here}"

    def _replace(match: re.Match[str]) -> str:
        found = _target(source, match[2])
        if found is None:
            return match[0]
        link = posixpath.relpath(_on_site(found), posixpath.dirname(here) or ".")
        return f"{match[1]}{link}{match[3] or ''}{match[4]}"

    return _LINK.sub(_replace, markdown)
