"""PyTorch reference of the Janus family: trains, exports, and is the oracle of every other backend.

Knows tensors only: no files but its weights, no images, no text.
"""
