"""Checkpoint to bundle: one graph a component, tables folded, parity checked, all of it hashed."""
