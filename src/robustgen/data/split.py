"""Data sets in the one form that everything after their preparation uses.

A data set consists of source images and a table of examples. An example is a source image
(`schemas.EXAMPLES`) or, where the manifold is known, a source image warped by six parameters
(`schemas.CODES`). A warped image is decoded on demand, so that it always agrees with its code.

The examples of each split are ordered such that every K consecutive ones contain each of the K
classes once. The first N examples are therefore balanced for every N that is a multiple of K, and a
small training set is part of every larger one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from robustgen.data.decoders import LearnedManifold, parameter_bounds, warp
from robustgen.errors import UserError
from robustgen.io.parquet import column_to_numpy, read_table
from robustgen.io.schemas import CODES, EXAMPLES, PARAMETERS
from robustgen.io.tensors import load_tensors
from robustgen.specs import require_instance, require_name
from robustgen.tensor_checks import require_codes_within, require_image_values, require_labels

SPLITS = ("train", "test")
"""Names of the splits of a data set."""
EXAMPLES_PER_CHUNK = 10_000
"""Number of examples that are decoded together, which bounds the memory."""


@dataclass(frozen=True, repr=False)
class Split:
    """The examples of one split, or a selection of them.

    Attributes:
        source_images: `(P, C, H, W)` source images, uint8 in 0…255 or floats in [0, 1].
        source_index: `(...)` position of each example's image in `source_images`, int64.
        labels: `(...)` classes, int64.
        codes: `(..., 6)` parameters of the warp, or None if examples are not warped.
        ranges: lower and upper bounds, each `(6,)`, of the codes; without codes, of the
            transformations that the study allows.
        classes: names of the K classes.
        decoded: `(..., C, H, W)` the images, if they are stored (see `materialize`).
        learned: codes and decoders of learned manifolds, by name of the space.
    """

    source_images: Tensor
    source_index: Tensor
    labels: Tensor
    codes: Tensor | None
    ranges: tuple[Tensor, Tensor]
    classes: tuple[str, ...]
    decoded: Tensor | None = None
    learned: Mapping[str, LearnedManifold] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse fields of different shapes."""
        shape = self.labels.shape
        if self.source_index.shape != shape:
            raise ValueError(
                f"source_index has the shape {tuple(self.source_index.shape)}, but labels have "
                f"{tuple(shape)}"
            )
        if self.codes is not None and self.codes.shape != (*shape, 6):
            raise ValueError(
                f"codes have the shape {tuple(self.codes.shape)}, but must have {(*shape, 6)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: Tensor | slice | tuple[slice, ...]) -> "Split":
        """Select examples; the shape of `index` becomes the leading shape."""
        return replace(
            self,
            source_index=self.source_index[index],
            labels=self.labels[index],
            codes=None if self.codes is None else self.codes[index],
            decoded=None if self.decoded is None else self.decoded[index],
            learned={name: manifold.select(index) for name, manifold in self.learned.items()},
        )

    def select_class(self, label: int) -> "Split":
        """Select the examples of one class; labels must have the shape `(N,)`."""
        return self.select(torch.nonzero(self.labels == label)[:, 0])

    def expand(self, members: int) -> "Split":
        """Repeat the N examples for each of M models: leading shape `(M, N)`."""
        rows = torch.arange(len(self), device=self.labels.device)
        return self.select(rows.expand(members, -1))

    def materialize(self) -> "Split":
        """Return a copy for repeated passes.

        Warped images are decoded once and stored. Otherwise the copy has only the source images in
        use, with unchanged type.
        """
        if self.codes is None:
            rows = torch.arange(self.source_index.numel(), device=self.source_index.device)
            source_images = self.source_images[self.source_index.flatten()]
            return replace(
                self, source_images=source_images, source_index=rows.view_as(self.source_index)
            )
        return replace(self, decoded=self.images())

    def identity_tensors(self) -> list[Tensor]:
        """Return all tensors from which images, codes and transformations are computed."""
        codes = [] if self.codes is None else [self.codes]
        learned = [
            tensor for manifold in self.learned.values() for tensor in manifold.identity_tensors()
        ]
        return [self.source_images, self.source_index, self.labels, *self.ranges, *codes, *learned]

    def unwarped_images(self) -> Tensor:
        """Return each example's source image, `(..., C, H, W)` in [0, 1], without its warp."""
        images = self.source_images[self.source_index]
        return images if images.is_floating_point() else images.float() / 255

    def images(self) -> Tensor:
        """Return the images `(..., C, H, W)` in [0, 1]."""
        if self.decoded is not None:
            return self.decoded
        if self.codes is None:
            return self.unwarped_images()
        if self.labels.dim() != 1 or len(self) <= EXAMPLES_PER_CHUNK:
            return warp(self.unwarped_images(), self.codes)
        images = self.codes.new_empty((len(self), *self.source_images.shape[1:]))
        for start in range(0, len(self), EXAMPLES_PER_CHUNK):
            rows = slice(start, start + EXAMPLES_PER_CHUNK)
            images[rows] = self.select(rows).images()
        return images


def require_split(argument: str, data: Split) -> None:
    """Raise a `ValueError` unless `data` is a split with proper values.

    Images must be uint8 or floats in [0, 1], labels int64, and codes within `ranges`.

    Args:
        argument: name of the argument, for the message.
        data: the split.
    """
    require_instance(argument, data, Split)
    device = data.source_images.device
    require_labels(f"the labels of {argument}", data.labels, data.source_index.shape, device)
    require_image_values(f"the images of {argument}", data.source_images)
    if data.codes is not None:
        require_codes_within(f"the codes of {argument}", data.codes, *data.ranges)


def shuffle_into_batches(
    examples: int, batch_size: int, generators: Sequence[torch.Generator]
) -> Sequence[Tensor]:
    """Return the rows `(M, b)` of each batch of an epoch, shuffled by each member's generator.

    A last batch of one example joins the batch before it, because batch normalization has no
    variance over a single example.
    """
    order = torch.stack([torch.randperm(examples, generator=rng) for rng in generators])
    boundaries = list(range(batch_size, examples, batch_size))
    if boundaries and examples - boundaries[-1] == 1:
        boundaries.pop()
    return torch.tensor_split(order, boundaries, dim=1)


def balanced_order(labels: np.ndarray, generators: Sequence[torch.Generator]) -> np.ndarray:
    """Return a random order of rows in which every K consecutive ones have each class once.

    If classes are not equally frequent, rows are left out at random, so that each class has as many
    rows as the smallest one. K is the number of classes that have rows.

    Args:
        labels: `(N,)` classes from 0 to K - 1; at least one row.
        generators: one per class, so that the order of a class does not depend on the others.
    """
    rows_by_class = [np.flatnonzero(labels == label) for label in range(len(generators))]
    shuffled = [
        rows[torch.randperm(len(rows), generator=rng).numpy()]
        for rows, rng in zip(rows_by_class, generators, strict=True)
        if len(rows)
    ]
    smallest = min(map(len, shuffled))
    return np.stack([rows[:smallest] for rows in shuffled], axis=1).reshape(-1)


def load_split(
    images: str | Path, examples: str | Path, split: str, device: torch.device | str = "cpu"
) -> Split:
    """Load the split called `split` ("train" or "test") of a data set.

    Args:
        images: safetensors file with `images` `(P, C, H, W)`, uint8.
        examples: Parquet file of `schemas.EXAMPLES` or `schemas.CODES`, whose header contains the
            name of the `ranges` and, as JSON, the names of the `classes`.
        split: name of the split.
        device: the device of all tensors.

    Raises:
        ValueError: there is no split of this name.
        UserError: a file is missing or damaged.

    Examples:
        >>> import robustgen
        >>> folder = "results/smoke/fonts/dataset"
        >>> files = f"{folder}/images.safetensors", f"{folder}/examples.parquet"
        >>> test = robustgen.load_split(*files, "test")
        >>> test.images().shape[1:], test.classes
        (torch.Size([1, 28, 28]), ('A', 'B', 'C'))
    """
    require_name("split", split, SPLITS)
    tensors, _ = load_tensors(images)
    if "images" not in tensors:
        raise UserError(f"{images} is no file of images: it has no tensor of the name 'images'")
    table = read_table(examples, CODES, EXAMPLES)
    is_selected = np.concatenate([_equals(chunk, split) for chunk in table["split"].chunks])

    def read_column(name: str) -> Tensor:
        return torch.from_numpy(column_to_numpy(table[name])[is_selected])

    codes = None
    if "rotation" in table.schema.names:
        codes = torch.stack([read_column(name) for name in PARAMETERS], 1).to(device)
    header = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    return Split(
        # uint8, because a large data set may not fit into memory as floats
        source_images=tensors["images"].to(device),
        source_index=read_column("source_index").long().to(device),
        labels=read_column("label").long().to(device),
        codes=codes,
        ranges=parameter_bounds(header["ranges"], device),
        classes=tuple(json.loads(header["classes"])),
    )


def _equals(words: pa.DictionaryArray, word: str) -> np.ndarray:
    """Whether each of `words` equals `word`; `pyarrow.compute` would take long to import."""
    is_equal = np.array([entry == word for entry in words.dictionary.to_pylist()], dtype=bool)
    is_selected: np.ndarray = is_equal[np.from_dlpack(words.indices)]
    return is_selected
