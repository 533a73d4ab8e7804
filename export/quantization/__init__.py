"""Weights, activations and KV caches in 8 and 4 bits, and half precision."""
