"""The graph of each component: built or traced, checked against PyTorch."""
