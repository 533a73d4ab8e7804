"""Print where the C API's files are: the folder that holds ``include`` and ``lib``.

With the word ``onnxruntime``: the path of the library that Python's wheel of that name holds.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from janus_edge.native import PREFIX


def main(words: list[str]) -> int:
    """Print what is asked for; return the exit code."""
    if words == ["onnxruntime"]:
        spec = find_spec("onnxruntime")
        folder = Path(spec.origin or "").parent / "capi" if spec is not None else Path()
        found = sorted(folder.glob("libonnxruntime*.so.*")) + sorted(folder.glob("libonnx*.dylib"))
        if not found:
            print("error: there is no wheel of onnxruntime here; install it", file=sys.stderr)
            return 1
        print(found[0])
        return 0
    if words:
        print("error: give no word, or onnxruntime", file=sys.stderr)
        return 2
    print(PREFIX)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
