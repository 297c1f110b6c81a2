"""Data sets in one form, from labelled images: balanced, in order, with a test split."""

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
from robustgen.data.holdout import choose_test_count
from robustgen.data.split import balanced_order
from robustgen.errors import UserError
from robustgen.io.schemas import EXAMPLES
from robustgen.sampling import make_generator

log = logging.getLogger("robustgen")

MIN_SIDE = 8
"""Least height and width of an image in pixels, because the classifier halves them three times."""

Rows = npt.NDArray[np.int64]
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LabelledImages:
    """Images, which are read on demand, and their classes.

    Attributes:
        labels: `(N,)` classes. A train split has every class; a test split may lack some.
        read: returns the images `(M, C, H, W)` of M rows, in 0…255.
    """

    labels: Rows
    read: Callable[[Rows], Images]


@dataclass(frozen=True)
class RawDataset:
    """Labelled images in their original order and number.

    Attributes:
        name: name for messages, e.g. the path of a folder.
        classes: names of the classes.
        train: the images, or those of the train split.
        test: the images of the test split; None if there is no test split.
    """

    name: str
    classes: tuple[str, ...]
    train: LabelledImages
    test: LabelledImages | None = None


def build_dataset(
    raw: RawDataset,
    *,
    study_seed: int,
    dataset: str,
    transformations: str,
    test_share: float = 0.0,
) -> tuple[Tensor, pa.Table]:
    """Build the images `(P, C, H, W)`, uint8, and the table (`schemas.EXAMPLES`) of a data set.

    Each split gets equally many images of every class, as many as its smallest class has, drawn at
    random and in the balanced order that `data.split` describes. The images are those of the table,
    in its order. Classes without test images are left out of the test split, which the log says.

    Args:
        raw: the images to choose from.
        study_seed: the `seed` of the study.
        dataset: name of the data set.
        transformations: name of the ranges of transformations.
        test_share: share of each class that is held out if `raw` has no test split.

    Raises:
        UserError: the images are too small for the classifier, or a class has too few of them.
    """
    _check_classes(raw)
    train = raw.train
    rows = balanced_order(train.labels, _make_generators(raw, study_seed, dataset, "train"))
    if raw.test is None:
        classes = len(raw.classes)
        count = choose_test_count(len(rows) // classes, test_share, f"a class in {raw.name}")
        splits = {
            "train": (train, rows[count * classes :]),
            "test": (train, rows[: count * classes]),
        }
    else:
        rngs = _make_generators(raw, study_seed, dataset, "test")
        splits = {
            "train": (train, rows),
            "test": (raw.test, balanced_order(raw.test.labels, rngs)),
        }
    images = [split.read(split_rows) for split, split_rows in splits.values()]
    _check_shapes(raw.name, *(split_images.shape[1:] for split_images in images))
    _log_counts(raw, *images)
    _log_common_images(*images)
    metadata = {"ranges": transformations, "classes": json.dumps(raw.classes)}
    columns = {
        "split": np.repeat(list(splits), [len(split_images) for split_images in images]),
        "label": np.concatenate(
            [split.labels[split_rows] for split, split_rows in splits.values()]
        ),
        "source_index": np.arange(sum(map(len, images))),
    }
    table = pa.table(columns).cast(EXAMPLES).replace_schema_metadata(metadata)
    return torch.from_numpy(np.concatenate(images)), table


def _check_classes(raw: RawDataset) -> None:
    """Log which classes have no test images.

    Raises:
        UserError: a class has no training images, or the test split has no images.
    """
    missing = _list_missing_classes(raw, raw.train)
    if missing:
        raise UserError(f"{raw.name}: class {missing[0]} has no training images")
    if raw.test is None:
        return
    if not len(raw.test.labels):
        raise UserError(f"{raw.name} has no test images")
    missing = _list_missing_classes(raw, raw.test)
    if missing:
        log.warning(
            "%d of %d classes have no test images: %s; test errors and success rates are about "
            "the other classes",
            len(missing),
            len(raw.classes),
            ", ".join(missing),
        )


def _list_missing_classes(raw: RawDataset, split: LabelledImages) -> list[str]:
    """List the classes of which a split has no images."""
    present = set(split.labels.tolist())
    return [name for label, name in enumerate(raw.classes) if label not in present]


def _log_counts(raw: RawDataset, train: Images, test: Images) -> None:
    """Log how many images each split has, and how many images of the data set are not used."""
    classes = len(raw.classes)
    log.info("%d train and %d test images of %d classes", len(train), len(test), classes)
    splits = filter(None, (raw.train, raw.test))
    if surplus := sum(len(split.labels) for split in splits) - len(train) - len(test):
        log.info("%d images are not used, because all classes must have equally many", surplus)


def _log_common_images(train: Images, test: Images) -> None:
    """Log how many test images have the same pixels as a train image."""
    train_digests = set(digest_pixels(train))
    common = sum(digest in train_digests for digest in digest_pixels(test))
    if common:
        log.warning(
            "%d of %d test images have the same pixels as training images: test errors are too low",
            common,
            len(test),
        )


def _make_generators(
    raw: RawDataset, study_seed: int, dataset: str, split: str
) -> list[torch.Generator]:
    """Make a generator per class from its name, so that a new class does not change the others."""
    return [make_generator(study_seed, "examples", dataset, split, name) for name in raw.classes]


def _check_shapes(name: str, train: tuple[int, ...], test: tuple[int, ...]) -> None:
    """Check the shapes `(C, H, W)` of both splits.

    Raises:
        UserError: the shapes differ, or images are too small.
    """
    if train != test:
        shapes = [f"{h}x{w} with {c} channel{'s' if c > 1 else ''}" for c, h, w in (test, train)]
        raise UserError(
            f"{name}: test images are {shapes[0]}, but must be {shapes[1]} (height x width)"
        )
    if min(train[1:]) < MIN_SIDE:
        size, min_size = f"{train[1]}x{train[2]}", f"{MIN_SIDE}x{MIN_SIDE}"
        raise UserError(f"{name}: the images have {size} pixels, but must have {min_size} at least")
