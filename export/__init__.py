"""From checkpoint to bundle: one graph per component, tables, parity checks and hashes."""
