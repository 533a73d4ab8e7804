"""Triton kernels, each with its fp32 reference in one file. None yet."""
