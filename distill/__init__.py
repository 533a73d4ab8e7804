"""Distillation: small networks that learn from what a bundle computes. It knows PyTorch."""
