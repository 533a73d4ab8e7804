"""Triton kernels, each with its float32 reference in the same file; compiled ahead of time by
``compile.py``. Formulas and sources: docs/kernels.md."""
