"""How large anything in a bundle may be.

docs/bundle.md lists the limits and native/core/limits.hpp has the same ones; a test compares all
three. They are far above what any published model needs, and low enough that no file can ask for
more memory or time than its own size explains.
"""

from __future__ import annotations

MIB = 2**20

# Bytes, by kind of file. Components are not read whole; the others are.
MOST_BYTES = {
    "manifest.json": 4 * MIB,
    "manifest.sha256": 1024,
    "tokenizer.json": 64 * MIB,
    "tokenizer.bin": 64 * MIB,
    "kernel": 64 * MIB,
    "component": 2**38,
}

# By the keys of the manifest's ``sizes``.
MOST_SIZES = {
    "hidden_size": 2**16,
    "vocab_size": 2**22,
    "num_layers": 2**10,
    "num_kv_heads": 2**10,
    "head_dim": 2**12,
    "max_length": 2**20,
    "image_size": 2**13,
    "num_image_tokens": 2**16,
    "code_grid": 2**10,
    "codebook_size": 2**20,
    "latent_channels": 2**10,
    "latent_size": 2**12,
    "latent_grid": 2**10,
}
MOST_CACHED = 2**40  # numbers: num_layers * num_kv_heads * head_dim * max_length

MOST_ROWS = 2**10  # R of the decoder's profile
MOST_DIMENSION = 2**31 - 1  # of any other shape or range
MOST_AXES = 8  # of a shape
MOST_OFFSET = 2**40  # bytes: of a weight in a component's data
MOST_WORD = 256  # characters of a name
MOST_ROLE = 4096  # characters of a prompt's role
MOST_PROMPT = 2**16  # characters of the system prompt
WHOLE_TABLE = 16 * MIB  # bytes up to which a table is read, and all its numbers checked, at once
