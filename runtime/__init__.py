"""The lean runtime: opens bundles, draws and answers. Imports no torch, no Triton, no onnx."""
