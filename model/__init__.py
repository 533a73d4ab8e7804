"""PyTorch reference of the Janus family: trains, exports and is the oracle of every backend.

The package knows tensors only: its files are weights; it reads no images and no text.
"""
