"""The tokenizer of a bundle, and its tables for the C++ core."""
