"""Other programs that do the same work, one a file: what each offers is its ``PEERS``.

A new peer is a new file here. ``PEERS`` maps its name to a function that opens it (``setup.py``).
"""
