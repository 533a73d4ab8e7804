"""Triton kernels, each with its fp32 reference in the same file.

``compile.py`` compiles them ahead of time. Formulas and sources: docs/kernels.md.
"""
