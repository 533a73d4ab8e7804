"""The C API's files: ``include``, and ``lib`` if scripts/build-native built it (docs/c-api.md).

cmake -DCMAKE_PREFIX_PATH="$(python -m janus_edge.native)" finds them.
"""

from __future__ import annotations

from pathlib import Path

PREFIX = Path(__file__).resolve().parent
