"""Triton kernels against PyTorch on a GPU: ``python -m janus_edge.bench.programs.kernels``."""
