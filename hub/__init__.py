"""Download checkpoints from a model hub."""
