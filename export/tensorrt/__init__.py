"""TensorRT engines from the graphs."""
