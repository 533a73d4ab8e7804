"""The table of a hostile hub's misbehaviours, one row each."""

from __future__ import annotations

import gzip
from itertools import repeat
from typing import Any

from tests.hub.hostile_hub import (
    COMMIT,
    LARGE,
    PIECE,
    VICTIM,
    Act,
    Case,
    changed,
    chunked,
    cut,
    endless,
    from_ten,
    ranged,
    raw,
    says,
    silent,
    to,
    well_with,
)

# ---- how listings lie: each changes the listing


def sets(**values: Any) -> Act:
    return lambda listing: listing | values


def lacks(key: str) -> Act:
    return lambda listing: {name: value for name, value in listing.items() if name != key}


def lists(*names: Any) -> Act:
    """Also list these names."""
    extra = [{"rfilename": name, "size": 1, "blobId": "0" * 40} for name in names]
    return lambda listing: listing | {"siblings": listing["siblings"] + extra}


def says_of(name: str, **values: Any) -> Act:
    def act(listing: dict[str, Any]) -> None:
        for entry in listing["siblings"]:
            if entry["rfilename"] == name:
                entry |= values

    return act


def lfs(**values: Any) -> Act:
    def act(listing: dict[str, Any]) -> None:
        for entry in listing["siblings"]:
            if "lfs" in entry:
                entry["lfs"] |= values

    return act


def unlisted(listing: dict[str, Any]) -> None:
    for entry in listing["siblings"]:
        for key in ("size", "blobId", "lfs"):
            entry.pop(key, None)


def config(content: bytes) -> Act:
    """Have this config."""
    return lambda files: files | {"config.json": content}


BOMB = gzip.compress(bytes(2**24))
ODD = "does not answer like a hub"
CASES = [
    # what is listed
    Case("commit-is-a-path", "listed", f"{ODD}.*sha", sets(sha=VICTIM)),
    Case("commit-is-absolute", "listed", f"{ODD}.*sha", sets(sha="/tmp/victim.txt")),
    Case("commit-is-a-branch", "listed", f"{ODD}.*sha", sets(sha="main")),
    Case("commit-in-capitals", "listed", f"{ODD}.*sha", sets(sha="C0" * 20)),
    Case("commit-too-long", "listed", f"{ODD}.*sha", sets(sha="c" * 41)),
    Case("commit-with-a-newline", "listed", f"{ODD}.*sha", sets(sha=COMMIT + "\n")),
    Case("commit-is-a-number", "listed", f"{ODD}.*sha", sets(sha=7)),
    Case("no-commit", "listed", f"{ODD}.*sha", lacks("sha")),
    Case("no-files", "listed", f"{ODD}.*siblings", lacks("siblings")),
    Case("files-are-no-list", "listed", f"{ODD}.*siblings", sets(siblings={"config.json": 1})),
    Case("name-leads-out", "listed", "leads out", lists(VICTIM)),
    Case("name-leads-out-inside", "listed", "leads out", lists("a/../../../../victim.txt")),
    Case("name-is-absolute", "listed", "leads out", lists("/tmp/victim.txt")),
    Case("name-with-a-dot-part", "listed", "leads out", lists("a/./b")),
    Case("name-is-empty", "listed", "leads out", lists("")),
    Case("name-with-backslashes", "listed", "backslash", lists("..\\..\\victim.txt")),
    Case("name-with-a-drive", "listed", "drive", lists("C:victim.txt")),
    Case("name-with-nul", "listed", "printed", lists("a\0b")),
    Case("name-with-escapes", "listed", "printed", lists("a\x1b[2Jb")),
    Case("name-with-a-newline", "listed", "printed", lists("a\nerror: b")),
    Case("name-written-backwards", "listed", "printed", lists("a\u202etxt.exe")),
    Case("name-too-long", "listed", "too long", lists("a" * 300)),
    Case("path-too-long", "listed", "too long", lists("/".join(repeat("a" * 99, 50)))),
    Case("name-twice", "listed", "twice", lists("config.json")),
    Case("name-is-file-and-folder", "listed", "twice", lists("config.json/a")),
    Case("names-differ-in-case", "listed", "one file", lists("Config.JSON")),
    Case("unneeded-names-differ-in-case", "listed", "", lists("readme.md", "README.md")),
    Case("name-is-a-number", "listed", ODD, lists(7)),
    Case("name-is-no-text", "listed", ODD, lists("\ud800")),
    Case("too-many-files", "listed", "siblings", lists(*map(str, range(100_001)))),
    Case("hash-is-a-path", "listed", "sha256", lfs(sha256=VICTIM)),
    Case("hash-of-nothing", "listed", "sha256", lfs(sha256="")),
    Case("git-hash-is-a-path", "listed", "blobId", says_of("config.json", blobId=VICTIM)),
    Case("size-below-zero", "listed", "size", lfs(size=-1)),
    Case("size-is-text", "listed", "size", says_of("config.json", size="1")),
    Case("size-is-a-fraction", "listed", "size", says_of("config.json", size=1.5)),
    Case("size-beyond-all", "listed", "size", lfs(size=2**60)),
    Case("size-beyond-the-disk", "listed", "sends .* where .* were listed", lfs(size=2**49)),
    Case("huge-config", "listed", "sends .* where", says_of("config.json", size=2**40)),
    Case("size-too-small", "listed", "sends .* where 10 were", lfs(size=10)),
    Case("another-hash", "listed", "is damaged", lfs(sha256="0" * 64)),
    Case("no-sizes-or-hashes", "listed", "", unlisted),
    # the listing itself
    Case("listing-is-html", "listing", ODD, says(b"<html>Log in</html>")),
    Case("listing-is-empty", "listing", ODD, says(b"")),
    Case("listing-is-deep", "listing", ODD, says(b"[" * 10**6)),
    Case("listing-is-a-number", "listing", ODD, says(b"9" * 10**6)),
    Case("listing-is-endless", "listing", "sends more", endless(repeat(PIECE))),
    Case("listing-is-compressed", "listing", "compressed", says(BOMB, Content_Encoding="gzip")),
    Case("listing-stops", "listing", "timed out|next to nothing", silent),
    Case("listing-drips", "listing", "not complete|only", endless(repeat(b" "), 0.05)),
    Case(
        "listing-is-cut",
        "listing",
        "connection",
        raw(b"HTTP/1.1 200\r\nContent-Length: 9\r\n\r\n{"),
    ),
    Case("listing-not-http", "listing", "connection", raw(b"SSH-2.0-hub\r\n\r\n")),
    Case("listing-never-begins", "listing", "connection", raw(b"")),
    Case("endless-head", "listing", "connection", raw(b"HTTP/1.1 200\r\n" + b"a: b\r\n" * 10**5)),
    Case("status-999", "listing", "answered 999", says(b"", 999)),
    Case("endless-error", "listing", "answered 500", endless(repeat(PIECE), status=500)),
    Case("odd-error-code", "listing", "404", says(b"", 404, X_Error_Code="{repo.__class__}")),
    Case("listing-redirects-for-ever", "listing", "redirect", to("{url}/api/models/x")),
    Case("listing-is-a-file", "listing", "protocol", to("file:///etc/passwd")),
    Case("listing-redirects-nowhere", "listing", "answered 302", says(b"", 302)),
    Case("listing-elsewhere", "listing", "answered 404", to("{other}/nothing")),
    # headers that other programs make names of
    Case("etag-is-a-path", "file", "", well_with(ETag=f'"{VICTIM}"')),
    Case("commit-header-is-a-path", "file", "", well_with(X_Repo_Commit=VICTIM)),
    Case("etag-of-another", "file", "", well_with(ETag='"0"', X_Linked_Etag='"1"')),
    Case("linked-etag-is-a-path", "file", "", well_with(X_Linked_Etag=VICTIM), LARGE),
    Case(
        "disposition-is-a-path", "large", "", well_with(Content_Disposition=f"a; filename={VICTIM}")
    ),
    # what is in the files, their hashes right
    Case(
        "config-with-escapes", "content", "config.json", config(b'{"model_type": "\\u001b[2J\\n"}')
    ),
    Case("config-is-deep", "content", "config.json", config(b"[" * 10**5)),
    Case("config-is-a-number", "content", "config.json", config(b"9" * 10**5)),
    Case(
        "config-is-long", "content", "config.json", config(b'{"model_type": "%s"}' % (b"a" * 10**5))
    ),
    Case("config-is-no-text", "content", "config.json", config(b"\xff\xfe\x00")),
    # bodies
    Case("file-is-endless", "file", "sends more", endless(repeat(PIECE))),
    Case("large-is-endless", "large", "sends more", endless(repeat(PIECE))),
    Case(
        "large-is-endless-chunks",
        "large",
        "sends more",
        chunked(*repeat(b"4000\r\n" + PIECE + b"\r\n", 90)),
    ),
    Case("one-byte-more", "large", "sends .* where", changed(lambda sent: sent + b"x")),
    Case("one-byte-more-untold", "large", "sends more", changed(lambda sent: sent + b"x", -1)),
    Case("one-byte-less", "large", "sends .* where", changed(lambda sent: sent[:-1])),
    Case(
        "one-byte-less-untold",
        "large",
        "is damaged|sends no more",
        changed(lambda sent: sent[:-1], -1),
    ),
    Case("nothing-sent", "large", "sends no more", changed(lambda sent: b"", -1)),
    Case("announces-more", "large", "sends .* where", changed(lambda sent: sent, 10**12)),
    Case(
        "one-bit-other",
        "large",
        "is damaged",
        changed(lambda sent: bytes([sent[0] ^ 1]) + sent[1:]),
    ),
    Case("another-file", "file", "is damaged", changed(lambda sent: sent[::-1])),
    Case("a-login-page", "file", "sends 2 bytes", says(b"hi")),
    Case("compressed-bomb", "file", "sends .* where", says(BOMB, Content_Encoding="gzip")),
    Case("compressed-untold", "file", "compressed", endless(repeat(BOMB), Content_Encoding="gzip")),
    Case("bad-chunks", "large", "connection|invalid|peer", chunked(b"zz\r\n")),
    Case("large-stops", "large", "timed out|sends .* where", silent),
    Case("large-drips", "large", "only", endless(repeat(b"x"), 0.05)),
    Case("file-gone", "file", "404", says(b"", 404, X_Error_Code="EntryNotFound")),
    Case("no-content", "file", "answered 204", says(b"", 204)),
    Case("not-modified", "file", "answered 304", says(b"", 304)),
    # ranges and cuts
    Case("cut-now-and-then", "large", "", cut(70_000)),
    Case("cut-after-each-byte", "large", "connection|goes on", cut(1)),
    Case("cut-then-ranges-ignored", "large", "", cut(70_000, changed(lambda sent: sent), 1)),
    Case("cut-then-416", "large", "", cut(70_000, ranged("bytes */{total}", 416), 1)),
    Case("cut-then-always-416", "large", "answered 416", cut(9, says(b"", 416), 1)),
    Case("416-at-once", "large", "answered 416", says(b"", 416)),
    Case("cut-then-total-unknown", "large", "", cut(70_000, ranged("bytes {start}-{end}/*"), 1)),
    Case("cut-then-nonsense", "large", "", cut(70_000, ranged("bytes of something"), 1)),
    Case(
        "cut-then-from-elsewhere",
        "large",
        "",
        cut(70_000, ranged("bytes {start}-{end}/{total}", shift=9), 1),
    ),
    Case(
        "cut-then-another-total",
        "large",
        "sends 99 bytes",
        cut(70_000, ranged("bytes {start}-98/99"), 1),
    ),
    Case("range-nobody-asked-for", "large", "another part", from_ten),
    # where answers lead
    Case("file-elsewhere", "file", "", to("{other}/cdn/{name}")),
    Case("there-and-back", "large", "", to("{url}/direct/{name}")),
    Case("large-redirects-for-ever", "large", "redirect", to("{other}/cdn/{name}")),
    Case("large-is-a-local-file", "large", "protocol", to("file:///etc/passwd")),
    Case(
        "large-at-an-odd-port", "large", "connection|port|URL|hub", to("http://127.0.0.1:99999/x")
    ),
]
