"""Print the folder that holds ``include`` and ``lib``."""

from __future__ import annotations

from janus_edge.native import PREFIX

print(PREFIX)
