"""An npz file of the user's images and labels."""

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from robustgen.errors import UserError, reading

_PREFIX = {"train": "", "test": "test_"}
_ARRAYS = "images and labels, and may have test_images and test_labels"


@contextmanager
def _reading(path: str | Path) -> Iterator[NpzFile]:
    """The file, open; whatever NumPy stumbles over becomes a `UserError` that names it."""
    if not Path(path).is_file():
        raise UserError(f"there is no file {path} to take images from")
    with Path(path).open("rb") as file:
        if file.read(4)[:2] not in (b"PK", b"\x93N"):  # a zip archive, or one array
            raise UserError(f"{path} is no npz file, as numpy.savez writes it")
    with reading(path, "npz file"):
        held = np.load(path, allow_pickle=False)
        if not isinstance(held, NpzFile):
            raise UserError(f"{path} is one array, but must be an npz file with {_ARRAYS}")
        with held:
            yield held


def digest(path: str | Path) -> str:
    """A digest of the file.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def frequencies(labels: npt.NDArray[np.int64]) -> list[int]:
    """How often each class occurs."""
    return [int(count) for count in np.bincount(labels)]


def read_labels(path: str | Path) -> dict[str, npt.NDArray[np.int64]]:
    """The labels `(N,)` of the split "train" and, if the file has it, of "test".

    Raises:
        UserError: the file is missing, damaged or lacks an array, or labels are no whole numbers
            from 0 to K-1 with each of them in either split.
    """
    with _reading(path) as held:
        needed = ["images", "labels"]
        if {"test_images", "test_labels"} & set(held.files):
            needed += ["test_images", "test_labels"]
        for name in needed:
            if name not in held.files:
                raise UserError(f"{path} has no array {name}: it must have {_ARRAYS}")
        splits = [split for split, prefix in _PREFIX.items() if f"{prefix}labels" in needed]
        given = {split: held[f"{_PREFIX[split]}labels"] for split in splits}
    for split, labels in given.items():
        _check_labels(f"{_PREFIX[split]}labels of {path}", labels)
    classes = int(given["train"].max()) + 1
    for split, labels in given.items():
        _check_classes(f"{_PREFIX[split]}labels of {path}", np.unique(labels), classes)
    return {split: labels.astype(np.int64) for split, labels in given.items()}


def read_shape(path: str | Path) -> tuple[int, int, int]:
    """Channels, height and width of the images, without reading them.

    Raises:
        UserError: the file is missing, damaged or lacks them, or they have another shape.
    """
    with _reading(path), zipfile.ZipFile(path) as held, held.open("images.npy") as file:
        version = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape = read[version[0]](file)[0]
    _check_shape(f"images of {path}", shape)
    channels = shape[3] if len(shape) == 4 else 1
    return channels, shape[1], shape[2]


def _check_shape(what: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[-1] not in (1, 3)):
        raise UserError(
            f"{what} have the shape {shape}, but must have (N, H, W) or (N, H, W, C), "
            "C being 1 or 3"
        )


def _check_labels(what: str, labels: npt.NDArray[Any]) -> None:
    if labels.ndim != 1 or not len(labels):
        raise UserError(f"{what} have the shape {labels.shape}, but must have (N,)")
    if labels.dtype.kind not in "iu":
        raise UserError(f"{what} are {labels.dtype}, but must be of a type of whole numbers")


def _check_classes(what: str, values: npt.NDArray[Any], classes: int) -> None:
    """Refuse labels whose different `values`, in order, are not 0 to K-1."""
    allowed = f"but must be 0 to K-1 for K classes, two or more, each of which occurs ({what})"
    outside = [int(value) for value in values if not 0 <= value < classes]
    if outside:
        raise UserError(f"a label is {outside[0]}, {allowed}")
    if len(values) < max(classes, 2):
        lacking = next(k for k in range(max(classes, 2)) if k >= len(values) or values[k] != k)
        raise UserError(
            f"no label is {lacking}, though the largest is {max(map(int, values))}, {allowed}"
        )


def read_images(path: str | Path, split: str, images: int) -> npt.NDArray[np.uint8]:
    """The images `(N, C, H, W)` of a split in 0…255; floats are rounded to these 256 values.

    Args:
        path: the npz file.
        split: "train" or "test".
        images: how many there must be.

    Raises:
        UserError: the file is damaged, or the images are of another number, shape or type, or
            have pixels outside [0, 1].
    """
    with _reading(path) as held:
        given = held[f"{_PREFIX[split]}images"]
    what = f"{_PREFIX[split]}images of {path}"
    _check_shape(what, given.shape)
    if len(given) != images:
        raise UserError(f"{what} are {len(given)}, but must be {images}, as many as the labels")
    pixels = _bytes(what, given)
    return np.moveaxis(pixels.reshape(*pixels.shape[:3], -1), -1, 1)


def _bytes(what: str, given: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Pixels in 0…255."""
    if given.dtype == np.uint8:
        return given
    if given.dtype.kind != "f":
        raise UserError(f"{what} are {given.dtype}, but must be uint8 in 0…255 or floats in [0, 1]")
    wrong = given[~((given >= 0) & (given <= 1))]
    if len(wrong):
        raise UserError(f"{what} have the pixel {wrong[0]:g}, but must be in [0, 1]")
    pixels: npt.NDArray[np.uint8] = np.rint(given * 255).astype(np.uint8)
    return pixels
