"""A process whose network look-ups are recorded and refused, with a home folder of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("network_shim.c")
OWN_VARIABLES = ("JANUS_EDGE_HOME", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY", "TMPDIR")
# By these ONNX Runtime knows a CI machine, where it collects nothing; a user's has none of them.
CI_VARIABLES = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "JENKINS_URL", "CODEBUILD_BUILD_ID", "TRAVIS")
REMOVED = OWN_VARIABLES + CI_VARIABLES


def run_watched(
    words: list[str | Path], folder: Path, **env: str
) -> tuple[subprocess.CompletedProcess[str], list[str], list[str]]:
    """Run a command in ``folder`` with the home folder ``folder/home``, preloaded with the shim.

    Return what it did, its look-ups ("getaddrinfo HOST"), and the files that it left in its home.
    Raise CalledProcessError if it fails.
    """
    shim, log, home = folder / "shim.so", folder / "network.log", folder / "home"
    compiler = ("gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror")
    subprocess.run([*compiler, SOURCE, "-o", shim, "-ldl"], check=True)
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key not in REMOVED}
        | {"HOME": str(home), "LD_PRELOAD": str(shim), "NETWORK_LOG": str(log)}
        | env,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    lookups = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    left = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    return done, lookups, left
