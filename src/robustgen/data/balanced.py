"""From labelled images to the one form of a data set: balanced, in order, with a test split."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from robustgen.data.duplicates import digest_pixels
from robustgen.data.holdout import held_out
from robustgen.data.split import interleave
from robustgen.errors import UserError
from robustgen.io.schemas import EXAMPLES
from robustgen.seeding import generator

log = logging.getLogger("robustgen")

SMALLEST = 8
"""Pixels that a side must have: the classifier halves it three times."""

Rows = npt.NDArray[np.int64]
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Labelled:
    """Images and their classes, of which some may be asked for."""

    labels: Rows
    """(N,). In a train split each class occurs; a test split may lack some, but not all."""
    read: Callable[[Rows], Images]
    """Images (M, C, H, W), in 0…255, of M rows."""


@dataclass(frozen=True)
class Collection:
    """Labelled images as they come, with a test split or without."""

    name: str
    """What a user knows it by, e.g. the path of a folder."""
    classes: tuple[str, ...]
    train: Labelled
    test: Labelled | None = None


def assemble(
    collection: Collection,
    *,
    study_seed: int,
    dataset: str,
    transformations: str,
    test_share: float = 0.0,
) -> tuple[Tensor, pa.Table]:
    """The bank `(P, C, H, W)`, uint8, and the table (`schemas.EXAMPLES`) of a data set.

    Each split has as many images of each class as there are of its smallest one, drawn at random,
    in the balanced order that `datasets` describes; the bank holds these alone, in the same order.
    Classes without test images are left out of the test split, and the log names them.

    Args:
        collection: what to choose from.
        study_seed: the study's `seed`.
        dataset: name of the data set.
        transformations: name of the ranges that transformations keep to.
        test_share: share of each class held out where the collection has no test split.

    Raises:
        UserError: the images are too small for the classifier, or a class has too few of them.
    """
    _check_classes(collection)
    train = collection.train
    rows = interleave(train.labels, _generators(collection, study_seed, dataset, "train"))
    if collection.test is None:
        classes = len(collection.classes)
        each = held_out(len(rows) // classes, test_share, f"a class in {collection.name}")
        parts = {"train": (train, rows[each * classes :]), "test": (train, rows[: each * classes])}
    else:
        test = collection.test
        rngs = _generators(collection, study_seed, dataset, "test")
        parts = {"train": (train, rows), "test": (test, interleave(test.labels, rngs))}
    images = [split.read(chosen) for split, chosen in parts.values()]
    _check_shapes(collection.name, *(part.shape[1:] for part in images))
    _log_counts(collection, *images)
    _log_common_images(*images)
    about = {"ranges": transformations, "classes": json.dumps(collection.classes)}
    columns = {
        "split": np.repeat(list(parts), [len(part) for part in images]),
        "label": np.concatenate([split.labels[chosen] for split, chosen in parts.values()]),
        "source": np.arange(sum(map(len, images))),
    }
    table = pa.table(columns).cast(EXAMPLES).replace_schema_metadata(about)
    return torch.from_numpy(np.concatenate(images)), table


def _check_classes(collection: Collection) -> None:
    """Refuse a class without train images, and a test split without images.

    Log which classes have no test images.
    """
    missing = _list_missing_classes(collection, collection.train)
    if missing:
        raise UserError(f"{collection.name}: class {missing[0]} has no train images")
    if collection.test is None:
        return
    if not len(collection.test.labels):
        raise UserError(f"{collection.name} has no test images")
    missing = _list_missing_classes(collection, collection.test)
    if missing:
        log.warning(
            "%d of %d classes have no test images: %s; test errors and success rates are about "
            "the other classes",
            len(missing),
            len(collection.classes),
            ", ".join(missing),
        )


def _list_missing_classes(collection: Collection, split: Labelled) -> list[str]:
    present = set(split.labels.tolist())
    return [name for label, name in enumerate(collection.classes) if label not in present]


def _log_counts(collection: Collection, train: Images, test: Images) -> None:
    """Log how many images each split has, and how many images of the collection are not used."""
    classes = len(collection.classes)
    log.info("%d train and %d test images of %d classes", len(train), len(test), classes)
    splits = filter(None, (collection.train, collection.test))
    if surplus := sum(len(split.labels) for split in splits) - len(train) - len(test):
        log.info("%d images are not used, so that all classes have equally many", surplus)


def _log_common_images(train: Images, test: Images) -> None:
    """Log how many test images have the same pixels as a train image."""
    train_digests = set(digest_pixels(train))
    common = sum(digest in train_digests for digest in digest_pixels(test))
    if common:
        log.warning(
            "%d of %d test images are also train images, pixel by pixel: test errors are too low",
            common,
            len(test),
        )


def _generators(
    collection: Collection, study_seed: int, dataset: str, split: str
) -> list[torch.Generator]:
    """One per class, by its name: an added class leaves the order of the others as it is."""
    return [generator(study_seed, "examples", dataset, split, name) for name in collection.classes]


def _check_shapes(name: str, train: tuple[int, ...], test: tuple[int, ...]) -> None:
    """Refuse images that are too small, or differ between the splits."""
    if train != test:
        shapes = [f"{h}x{w} with {c} channel{'s' if c > 1 else ''}" for c, h, w in (test, train)]
        raise UserError(
            f"{name}: test images are {shapes[0]}, but must be {shapes[1]} (height x width)"
        )
    if min(train[1:]) < SMALLEST:
        size, least = f"{train[1]}x{train[2]}", f"{SMALLEST}x{SMALLEST}"
        raise UserError(f"{name}: the images have {size} pixels, but must have {least} at least")
