"""Data sets in the one form that everything after their preparation uses.

A data set is a bank of source images and a table of examples. An example is a row of the bank
(`schemas.EXAMPLES`) or, where the manifold is known, a row of the bank warped by six parameters
(`schemas.CODES`). Such an image is decoded on demand, and so always agrees with its stored code.

The rows of each split are ordered so that every run of K rows contains each of the K classes once.
The first N rows are then balanced for every N that is a multiple of K, and a small training set is
part of every larger one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from robustgen.data import affine
from robustgen.data.learned_manifold import LearnedManifold
from robustgen.io.parquet import column_to_numpy, read_table
from robustgen.io.schemas import CODES, EXAMPLES, PARAMETERS
from robustgen.io.tensors import load_tensors

EXAMPLES_PER_CHUNK = 10_000
"""Examples that are decoded together, which bounds the memory."""


@dataclass(frozen=True, repr=False)
class Split:
    """The examples of one split, or any selection of them.

    Attributes:
        bank: `(P, C, H, W)` source images, in 0…255 as uint8 or in [0, 1] as floats.
        source: `(...)` rows of the bank, int64.
        labels: `(...)` classes, int64.
        codes: `(..., 6)` parameters of the warp, or None where an example is its source image.
        ranges: lower and upper bounds, each `(6,)`, of the codes; without codes, of the
            transformations that the study allows.
        classes: names of the K classes.
        decoded: `(..., C, H, W)` the images, if they are stored (see `keep`).
        learned: codes and decoders of learned manifolds, by the name of the space.
    """

    bank: Tensor
    source: Tensor
    labels: Tensor
    codes: Tensor | None
    ranges: tuple[Tensor, Tensor]
    classes: tuple[str, ...]
    decoded: Tensor | None = None
    learned: Mapping[str, LearnedManifold] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor | slice | tuple[slice, ...]) -> "Split":
        """Select rows; the shape of `index` becomes the leading shape."""
        return replace(
            self,
            source=self.source[index],
            labels=self.labels[index],
            codes=None if self.codes is None else self.codes[index],
            decoded=None if self.decoded is None else self.decoded[index],
            learned={name: manifold.take(index) for name, manifold in self.learned.items()},
        )

    def of_class(self, label: int) -> "Split":
        """The examples of one class."""
        return self.take(torch.nonzero(self.labels == label)[:, 0])

    def expand(self, members: int) -> "Split":
        """The same N examples for each of M models: leading shape `(M, N)`."""
        rows = torch.arange(len(self), device=self.labels.device)
        return self.take(rows.expand(members, -1))

    def keep(self) -> "Split":
        """A copy for repeated passes.

        Warped images are decoded once and stored. Otherwise only the source images in use are
        kept, as they are.
        """
        if self.codes is None:
            rows = torch.arange(self.source.numel(), device=self.source.device)
            bank = self.bank[self.source.flatten()]
            return replace(self, bank=bank, source=rows.view_as(self.source))
        return replace(self, decoded=self.images())

    def tensors(self) -> list[Tensor]:
        """All tensors from which images, codes and transformations are computed."""
        codes = [] if self.codes is None else [self.codes]
        learned = [tensor for manifold in self.learned.values() for tensor in manifold.tensors()]
        return [self.bank, self.source, self.labels, *self.ranges, *codes, *learned]

    def sources(self) -> Tensor:
        """Source images `(..., C, H, W)` in [0, 1]: for FONTS the letter prototypes."""
        sources = self.bank[self.source]
        return sources if sources.is_floating_point() else sources.float() / 255

    def images(self) -> Tensor:
        """The images `(..., C, H, W)`."""
        if self.decoded is not None:
            return self.decoded
        if self.codes is None:
            return self.sources()
        if self.labels.dim() != 1 or len(self) <= EXAMPLES_PER_CHUNK:
            return affine.transform(self.sources(), self.codes)
        images = self.codes.new_empty((len(self), *self.bank.shape[1:]))
        for start in range(0, len(self), EXAMPLES_PER_CHUNK):
            rows = slice(start, start + EXAMPLES_PER_CHUNK)
            images[rows] = self.take(rows).images()
        return images


def batches(
    examples: int, batch_size: int, generators: Sequence[torch.Generator]
) -> Sequence[Tensor]:
    """Rows `(M, b)` of each batch of an epoch, in the order of each member's own generator.

    A last batch of one example joins the batch before it, because batch normalization has no
    variance over a single example.
    """
    order = torch.stack([torch.randperm(examples, generator=rng) for rng in generators])
    boundaries = list(range(batch_size, examples, batch_size))
    if boundaries and examples - boundaries[-1] == 1:
        boundaries.pop()
    return torch.tensor_split(order, boundaries, dim=1)


def interleave(labels: np.ndarray, generators: Sequence[torch.Generator]) -> np.ndarray:
    """A random order of the rows of `labels` `(N,)` in which every run of K has each class once.

    Where classes are not equally frequent, rows are left out at random, so that each class has as
    many as the smallest one. Classes without rows do not count; K is the number of the others.

    Args:
        labels: classes, 0 to K - 1; at least one row.
        generators: one per class, so that the order of one does not depend on the others.
    """
    rows_by_class = [np.flatnonzero(labels == label) for label in range(len(generators))]
    shuffled = [
        rows[torch.randperm(len(rows), generator=rng).numpy()]
        for rows, rng in zip(rows_by_class, generators, strict=True)
        if len(rows)
    ]
    smallest = min(map(len, shuffled))
    return np.stack([rows[:smallest] for rows in shuffled], axis=1).reshape(-1)


def load(
    bank: str | Path, examples: str | Path, split: str, device: torch.device | str = "cpu"
) -> Split:
    """Load the split called `split` ("train" or "test") of a data set.

    Args:
        bank: safetensors file with `images` `(P, C, H, W)`, uint8.
        examples: Parquet file of `schemas.EXAMPLES` or `schemas.CODES`, whose header names the
            `ranges` and, as JSON, the names of the `classes`.
        split: which rows.
        device: the device of all tensors.

    Raises:
        UserError: a file is missing or damaged.
    """
    tensors, _ = load_tensors(bank)
    table = read_table(examples, CODES, EXAMPLES)
    is_selected = np.concatenate([_equals(part, split) for part in table["split"].chunks])

    def column(name: str) -> Tensor:
        return torch.from_numpy(column_to_numpy(table[name])[is_selected])

    codes = None
    if "rotation" in table.schema.names:
        codes = torch.stack([column(name) for name in PARAMETERS], 1).to(device)
    header = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    return Split(
        bank=tensors["images"].to(device),  # as uint8: a large bank need not fit as floats
        source=column("source").long().to(device),
        labels=column("label").long().to(device),
        codes=codes,
        ranges=affine.bounds(header["ranges"], device),
        classes=tuple(json.loads(header["classes"])),
    )


def _equals(words: pa.DictionaryArray, word: str) -> np.ndarray:
    """Where `words` equal `word`, without the slow import of `pyarrow.compute`."""
    is_equal = np.array([entry == word for entry in words.dictionary.to_pylist()], dtype=bool)
    rows: np.ndarray = is_equal[np.from_dlpack(words.indices)]
    return rows
