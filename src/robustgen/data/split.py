"""Data sets in the one form that everything after the data set stage knows.

A data set is a bank of source images and a table of examples. An example is a row of the bank
(`schemas.EXAMPLES`) or, where the manifold is known, a row of the bank warped by six parameters
(`schemas.CODES`): it is decoded on demand and so equals its stored code by construction.

The rows of each split are ordered so that every run of K rows holds each of the K classes once.
The first N rows are then balanced for every N that is a multiple of K, and a small training set
is part of every larger one.
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
from robustgen.io.files import numbers, read_table
from robustgen.io.schemas import CODES, EXAMPLES, PARAMETERS
from robustgen.io.tensors import load_tensors

DECODED_AT_ONCE = 10_000


@dataclass(frozen=True, repr=False)
class Split:
    """The examples of one split, or any selection of them.

    Attributes:
        bank: `(P, C, H, W)` source images, in 0…255 as uint8 or in [0, 1] as floats.
        source: `(...)` rows of the bank, int64.
        labels: `(...)` classes, int64.
        codes: `(..., 6)` parameters of the warp, or None where an example is its source image.
        ranges: lower and upper ends, each `(6,)`, of the codes or, without codes, of the
            transformations that the study allows.
        classes: names of the K classes.
        decoded: `(..., C, H, W)` the images, where they are kept (see `keep`).
        learned: their codes and decoders by the name of the space, where one was learned.
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
        """The selection of rows given by `index`, whose shape becomes the leading shape."""
        return replace(
            self,
            source=self.source[index],
            labels=self.labels[index],
            codes=None if self.codes is None else self.codes[index],
            decoded=None if self.decoded is None else self.decoded[index],
            learned={name: of.take(index) for name, of in self.learned.items()},
        )

    def of_class(self, label: int) -> "Split":
        """The examples of one class."""
        return self.take(torch.nonzero(self.labels == label)[:, 0])

    def keep(self) -> "Split":
        """The same for those who go through it many times: decoded once, if it is decoded at all.

        Images that are rows of the bank stay in it as they are, the others of it left out.
        """
        if self.codes is None:
            rows = torch.arange(self.source.numel(), device=self.source.device)
            bank = self.bank[self.source.flatten()]
            return replace(self, bank=bank, source=rows.view_as(self.source))
        return replace(self, decoded=self.images())

    def tensors(self) -> list[Tensor]:
        """All that images, codes and transformations, and what is decoded of them, are made of."""
        codes = [] if self.codes is None else [self.codes]
        known = [tensor for of in self.learned.values() for tensor in of.tensors()]
        return [self.bank, self.source, self.labels, *self.ranges, *codes, *known]

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
        if self.labels.dim() != 1 or len(self) <= DECODED_AT_ONCE:
            return affine.transform(self.sources(), self.codes)
        images = self.codes.new_empty((len(self), *self.bank.shape[1:]))
        for start in range(0, len(self), DECODED_AT_ONCE):
            rows = slice(start, start + DECODED_AT_ONCE)
            images[rows] = self.take(rows).images()
        return images


def batches(
    examples: int, batch_size: int, generators: Sequence[torch.Generator]
) -> Sequence[Tensor]:
    """Rows `(M, b)` of each batch of an epoch, in an order of its own for each generator.

    A last batch of one joins the one before it: batch normalization has no variance over a single
    example.
    """
    order = torch.stack([torch.randperm(examples, generator=g) for g in generators])
    cuts = list(range(batch_size, examples, batch_size))
    if cuts and examples - cuts[-1] == 1:
        cuts.pop()
    return torch.tensor_split(order, cuts, dim=1)


def interleave(labels: np.ndarray, generators: Sequence[torch.Generator]) -> np.ndarray:
    """A random order of the rows of `labels` `(N,)` in which every run of K has each class once.

    Where classes are not equally frequent, each is cut to the smallest one's number, at random.
    Classes without rows are left out; K is the number of the others.

    Args:
        labels: classes, 0 to K - 1; at least one row.
        generators: one per class, so that the order of one does not depend on the others.
    """
    by_class = [np.flatnonzero(labels == label) for label in range(len(generators))]
    shuffled = [
        rows[torch.randperm(len(rows), generator=rng).numpy()]
        for rows, rng in zip(by_class, generators, strict=True)
        if len(rows)
    ]
    fewest = min(map(len, shuffled))
    return np.stack([rows[:fewest] for rows in shuffled], axis=1).reshape(-1)


def load(
    bank: str | Path, examples: str | Path, split: str, device: torch.device | str = "cpu"
) -> Split:
    """Load the split called `split` ("train" or "test") of a data set.

    Args:
        bank: safetensors file with `images` `(P, C, H, W)`, uint8.
        examples: Parquet file of `schemas.EXAMPLES` or `schemas.CODES`, whose header names the
            `ranges` and, as JSON, the names of the `classes`.
        split: which rows.
        device: where everything is held.

    Raises:
        UserError: a file is missing or damaged.
    """
    tensors, _ = load_tensors(bank)
    table = read_table(examples, CODES, EXAMPLES)
    chosen = np.concatenate([_equal(part, split) for part in table["split"].chunks])

    def column(name: str) -> Tensor:
        return torch.from_numpy(numbers(table[name])[chosen])

    coded = "rotation" in table.schema.names
    codes = torch.stack([column(name) for name in PARAMETERS], 1).to(device) if coded else None
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    return Split(
        bank=tensors["images"].to(device),  # a large bank need not fit into memory as floats
        source=column("source").long().to(device),
        labels=column("label").long().to(device),
        codes=codes,
        ranges=affine.bounds(about["ranges"], device),
        classes=tuple(json.loads(about["classes"])),
    )


def _equal(words: pa.DictionaryArray, word: str) -> np.ndarray:
    """Where `words` are this one, as pyarrow's `equal` says, whose import takes time."""
    known = np.array([of == word for of in words.dictionary.to_pylist()], dtype=bool)
    equal: np.ndarray = known[np.from_dlpack(words.indices)]
    return equal
