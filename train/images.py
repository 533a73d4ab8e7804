"""The images of a step's rows: read, cropped or padded, and encoded once.

Codes and latents of drawn images are kept in a file per dataset and tokenizer, so that each image
is encoded in the first epoch alone.

Shapes: B images encoded at once, I images asked about, G images drawn, N codes, Z latent channels,
H, W latent cells.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from janus_edge.data.errors import BrokenSample
from janus_edge.data.views import cropped, padded
from janus_edge.runtime.errors import OutputError
from janus_edge.train.packing import Packed, join
from janus_edge.train.pieces import Piece
from janus_edge.train.recipe import Recipe, Stage
from janus_edge.train.steps import random_of

Encode = Callable[[Tensor], Tensor]  # pixels (B, 3, S, S) in [-1, 1] to codes or latents
# Images that are encoded at once. A last few are filled up to as many, so that an image's latent
# does not depend on which others are new: a stopped run goes on to the same curve.
ENCODED_AT_ONCE = 8


class Images(Protocol):
    """What the loading of rows needs of the shards of a role (``data/samples.py``)."""

    def image(self, i: int) -> np.ndarray:
        """Return a sample's image (H, W, 3) uint8; raise BrokenSample."""


class Encoded:
    """Codes or latents of a role's images, kept in a file.

    Processes may share the file: each writes the entries of its own images, whole. An entry counts
    as there if it has its checksum, so that one which a power failure damaged is encoded again.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, ...], dtype: str) -> None:
        """Open the file, or make it; it takes disk space as it fills.

        Args:
            path: The file; a second one beside it has the entries' checksums.
            count: Number of images.
            shape: Shape of an entry.
            dtype: Its dtype.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._paths = path, path.with_suffix(".crc32")
        self._entries = _mapped(path, (count, *shape), dtype)
        self._sums = _mapped(self._paths[1], (count,), "uint32")

    def has(self, index: int) -> bool:
        """Return whether an entry is there."""
        return bool(self._sums[index]) and int(self._sums[index]) == _sum(self._entries[index])

    def put(self, index: int, entry: np.ndarray) -> None:
        """Keep an entry.

        It is written, not put through the mapping, as that would end the process on a full disk.

        Raises:
            OutputError: It cannot be written.
        """
        kept = np.ascontiguousarray(entry, self._entries.dtype)
        parts = (kept.tobytes(), np.uint32(_sum(kept)).tobytes())
        for path, raw in zip(self._paths, parts, strict=True):
            try:
                with path.open("r+b") as file:
                    file.seek(index * len(raw))
                    file.write(raw)
            except OSError as error:
                raise OutputError(
                    f"{path}: {error.strerror}; make room there, or set JANUS_EDGE_HOME, then "
                    "start again"
                ) from None

    def get(self, index: int) -> np.ndarray:
        """Return an entry that is there."""
        return np.array(self._entries[index])

    def first(self, most: int) -> np.ndarray:
        """Return the first entries that are there, (P, ...)."""
        there = (int(i) for i in np.flatnonzero(self._sums) if self.has(int(i)))
        return np.array(self._entries[list(islice(there, most))])


def _sum(entry: np.ndarray) -> int:
    """Return an entry's checksum, which is never 0."""
    return zlib.crc32(entry.tobytes()) or 1


def _mapped(path: Path, shape: tuple[int, ...], dtype: str) -> np.memmap:
    """Return a file as an array that is zero where nothing was written."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with path.open("ab") as file:
        if file.tell() < size:
            file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)


class Loader:
    """Loads the rows of a Janus or a JanusFlow as tensors."""

    def __init__(
        self,
        recipe: Recipe,
        data: Mapping[str, Images],
        encode: Encode,
        kept: Mapping[str, Encoded],
        skip: Callable[[Mapping[str, str]], None],
    ) -> None:
        """Keep what loading needs.

        Args:
            recipe: The recipe.
            data: The shards by role.
            encode: The VQ tokenizer's codes (B, N), or the autoencoder's latents (B, Z, H, W).
            kept: What is encoded, by role that draws.
            skip: Called with the names of images that cannot be read, and why.
        """
        self.recipe, self.data, self.encode = recipe, data, encode
        self.kept, self.skip = kept, skip

    def load(self, stage: Stage, step: int, rows: Sequence[Sequence[Piece]]) -> Packed:
        """Return rows of a step; a piece whose image cannot be read is left out.

        Args:
            stage: The stage.
            step: Number of the step, which the noise follows from.
            rows: The pieces of each row.
        """
        size = self.recipe.config.vision.image_size
        broken = self.encode_new([piece for row in rows for piece in row if piece.draws])
        kept_rows: list[list[Piece]] = []
        seen: list[Tensor] = []
        drawn: list[dict[str, Tensor]] = []
        for row in rows:
            kept_rows.append([])
            for piece in row:
                try:
                    if piece.sees:
                        seen.append(pixels(padded(self._image(piece), size)))
                    if piece.draws:
                        if piece.place in broken:
                            raise broken[piece.place]
                        drawn.append(self._drawn(stage, step, piece))
                except BrokenSample as error:
                    self.skip({error.name: error.reason})
                else:
                    kept_rows[-1].append(piece)
        codes = [each["codes"].numpy() for each in drawn if "codes" in each]
        names = drawn[0] if drawn and not codes else {}
        joined = {name: torch.stack([each[name] for each in drawn]) for name in names}
        return join(kept_rows, codes, torch.stack(seen) if seen else None, joined)

    def encode_new(self, pieces: Sequence[Piece]) -> dict[tuple[str, int], BrokenSample]:
        """Encode and keep the images of pieces that are not kept yet, several at once.

        Args:
            pieces: Pieces that draw.

        Returns:
            The errors of images that cannot be read, by place.
        """
        broken: dict[tuple[str, int], BrokenSample] = {}
        found: dict[tuple[str, int], Tensor] = {}
        for piece in pieces:
            role, index = piece.place
            if piece.place not in found and not self.kept[role].has(index):
                try:
                    found[piece.place] = self._clean(piece)
                except BrokenSample as error:
                    broken[piece.place] = error
        for start in range(0, len(found), ENCODED_AT_ONCE):
            places = list(found)[start : start + ENCODED_AT_ONCE]
            batch = torch.stack([found[place] for place in places])
            missing = ENCODED_AT_ONCE - len(batch)
            with torch.no_grad():
                entries = self.encode(F.pad(batch, (0, 0) * 3 + (0, missing))).cpu().numpy()
            for (role, index), entry in zip(places, entries, strict=False):
                self.kept[role].put(index, entry)
        return broken

    def _clean(self, piece: Piece) -> Tensor:
        """Return the pixels of an image that is drawn; raise BrokenSample."""
        return pixels(cropped(self._image(piece), self.recipe.config.vision.image_size))

    def _image(self, piece: Piece) -> np.ndarray:
        role, index = piece.place
        return self.data[role].image(index)

    def _drawn(self, stage: Stage, step: int, piece: Piece) -> dict[str, Tensor]:
        """Return what the losses need of a drawn image."""
        role, index = piece.place
        entry = torch.from_numpy(self.kept[role].get(index))
        if piece.num_codes:
            return {"codes": entry.long()}
        rng = random_of(self.recipe, stage, step, piece.place, piece.repeat)
        times = self.recipe.timesteps
        assert times is not None
        rng.random(2)  # the caption's
        noise = torch.from_numpy(rng.standard_normal(tuple(entry.shape), np.float32))
        logit = torch.tensor(times.mean + times.std * float(rng.standard_normal()))
        found = {"latent": entry.float(), "noise": noise, "t": logit.sigmoid().float()}
        return found | ({"clean": self._clean(piece)} if self.recipe.repa else {})


def pixels(image_HWC: np.ndarray) -> Tensor:
    """Return an image's pixels (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(image_HWC)).permute(2, 0, 1).float() / 127.5 - 1
