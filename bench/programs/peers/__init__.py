"""Other programs that do the same work, one a file: what each offers is its ``PEERS``.

A new peer is a new file here. ``PEERS`` maps each work that it has to names, and those to functions
that open it (``setup.py``).
"""
