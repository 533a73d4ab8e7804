"""The bundle writer: components, tables, kernels and the manifest."""
