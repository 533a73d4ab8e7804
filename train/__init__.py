"""Training: data from the shape world, losses, stages and one resumable loop."""
