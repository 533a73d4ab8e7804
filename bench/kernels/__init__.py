"""Kernels beside PyTorch in their place, on a GPU: ``python -m janus_edge.bench.kernels``."""
