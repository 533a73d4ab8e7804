"""Training data: shards of images and texts, their order, and views of images. No torch."""
