"""Other programs that do the same work, one per file: what each offers is its ``PEERS``.

A new peer is a new file here. ``PEERS`` maps each workload that it has to names, and those to
functions that open it (``setup.py``).
"""
