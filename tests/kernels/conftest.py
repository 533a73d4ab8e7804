"""Kernels run on the device where there is one, else in Triton's interpreter: tests/conftest.py."""

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
