"""An npz file of the user's images and labels, as `numpy.savez` writes it."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from robustgen.data.duplicates import DistinctImages, digest_pixels, find_distinct
from robustgen.errors import UserError, reading
from robustgen.io.digest_cache import file_stamp, is_settled, read_notes, write_notes
from robustgen.io.paths import IMAGES_PURPOSE, require_file

_PREFIXES = {"train": "", "test": "test_"}
_ARRAYS = "images and labels, and may have test_images and test_labels"
_NOTES_VERSION = 1
"""Of the content of `ArraySummary`: notes of another version are not used."""
_DARKEST = 1
"""Values up to this one, of 255, cannot be told from black."""
_DARK = 32
"""Images whose values are all below this one, of 255, may be class numbers or have 4 bits."""

log = logging.getLogger("robustgen")

Labels = npt.NDArray[np.int64]
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ArrayFile:
    """The content of an npz file.

    Attributes:
        images: `(N, C, H, W)` in 0…255, of the split "train" and, if the file has it, of "test".
        labels: `(N,)` of the same splits.
        distinct: which train images are used if each counts once; None, i.e. all of them, if the
            file has a test split.
        other_arrays: names of arrays that are not read.
    """

    images: dict[str, Images]
    labels: dict[str, Labels]
    distinct: DistinctImages | None
    other_arrays: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels["train"].max()) + 1

    @property
    def train_rows(self) -> Labels:
        """The train images that are used."""
        if self.distinct is None:
            return np.arange(len(self.labels["train"]))
        return np.array(self.distinct.rows, np.int64)


@dataclass(frozen=True)
class ArraySummary:
    """What a study needs to know of an npz file before a job reads it.

    Attributes:
        digest: of the file.
        shape: channels, height and width of the images.
        train: number of train images of each class; of copies, one counts.
        test: number of test images of each class, 0 where a class has none; None if the file has
            no test split.
    """

    digest: str
    shape: tuple[int, int, int]
    train: list[int]
    test: list[int] | None


def summarize(path: str | Path) -> ArraySummary:
    """Summarize an npz file. A file that did not change since the last time is not read.

    Raises:
        UserError: as `read_arrays`.
    """
    file = require_file(path, IMAGES_PURPOSE)
    stamp = file_stamp(file)
    notes = read_notes(file)
    if notes.get("version") == _NOTES_VERSION and notes.get("stamp") == stamp:
        with suppress(KeyError, TypeError):
            fields: dict[str, Any] = notes["summary"]
            return ArraySummary(**{**fields, "shape": tuple(fields["shape"])})
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    content = read_arrays(path)
    counts = {
        split: np.bincount(labels, minlength=content.classes).tolist()
        for split, labels in content.labels.items()
    }
    used_labels = content.labels["train"][content.train_rows]
    counts["train"] = np.bincount(used_labels, minlength=content.classes).tolist()
    channels, height, width = content.images["train"].shape[1:]
    shape = channels, height, width
    summary = ArraySummary(digest, shape, counts["train"], counts.get("test"))
    if is_settled(stamp):
        write_notes(file, {"version": _NOTES_VERSION, "stamp": stamp, "summary": asdict(summary)})
    return summary


def read_arrays(path: str | Path) -> ArrayFile:
    """Read an npz file; floats are rounded to the 256 values of a byte.

    Raises:
        UserError: the file is missing, damaged or lacks an array; labels are no whole numbers from
            0 to K-1, a class has no train image or there are no test images; images are of another
            number, shape or type, have pixels outside [0, 1], or all are black.
    """
    with _open_npz(path) as npz:
        needed = ["images", "labels"]
        if {"test_images", "test_labels"} & set(npz.files):
            needed += ["test_images", "test_labels"]
        for name in needed:
            if name not in npz.files:
                raise UserError(f"{path} has no array {name}: it must have {_ARRAYS}")
        arrays = {name: npz[name] for name in needed}
        other_arrays = tuple(name for name in npz.files if name not in needed)
    splits = [split for split, prefix in _PREFIXES.items() if f"{prefix}labels" in arrays]
    labels = _check_labels(path, {s: arrays[f"{_PREFIXES[s]}labels"] for s in splits})
    images: dict[str, Images] = {}
    for split in splits:
        name = f"{_PREFIXES[split]}images"
        images[split] = _to_bytes(f"{name} of {path}", arrays.pop(name), len(labels[split]))
    require_visible(path, *images.values())
    distinct = None
    if "test" not in splits:
        distinct = find_distinct(labels["train"].tolist(), digest_pixels(images["train"]))
        _check_distinct(path, labels["train"], distinct)
    return ArrayFile(images, labels, distinct, other_arrays)


def require_visible(name: str | Path, *images: Images) -> None:
    """Refuse arrays that are black as a whole.

    Args:
        name: the file or folder.
        images: pixels in 0…255, an array for each split.

    Raises:
        UserError: an array has no value larger than 1, as a mask of zeros and ones.
    """
    largest = min(int(array.max(initial=0)) for array in images)
    if largest <= _DARKEST:
        raise UserError(
            f"all images in {name} are nearly black, because the largest value is {largest} of "
            "255: multiply the values by 255, or store floats in [0, 1]"
        )


def log_dark_images(name: str | Path, *images: Images) -> None:
    """Warn of arrays whose values use a small part of 0…255, as class numbers or 4-bit images."""
    largest = min(int(array.max(initial=0)) for array in images)
    if largest < _DARK:
        log.warning("the images in %s are dark: their largest value is %d of 255", name, largest)


@contextmanager
def _open_npz(path: str | Path) -> Iterator[NpzFile]:
    """Open the file; every error of NumPy becomes a `UserError` that names the file."""
    file = require_file(path, IMAGES_PURPOSE)
    try:
        with file.open("rb") as stream:
            magic = stream.read(2)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    if magic not in (b"PK", b"\x93N"):  # a zip archive, or one array
        raise UserError(f"{file} is no npz file, as numpy.savez writes it")
    with reading(file, "npz file"):
        npz = np.load(file, allow_pickle=False)
        if not isinstance(npz, NpzFile):
            raise UserError(f"{file} is one array, but must be an npz file with {_ARRAYS}")
        with npz:
            yield npz


def _check_labels(path: str | Path, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Labels]:
    """The labels as int64, if they are 0 to K-1 and every class has a train image."""
    for split, labels in arrays.items():
        name = f"{_PREFIXES[split]}labels of {path}"
        if labels.ndim != 1 or not len(labels):
            raise UserError(f"{name} have the shape {labels.shape}, but must have (N,)")
        if labels.dtype.kind not in "iu":
            raise UserError(f"{name} are {labels.dtype}, but must be of a type of whole numbers")
    classes = int(arrays["train"].max()) + 1
    for split, labels in arrays.items():
        _check_classes(split, f"{_PREFIXES[split]}labels of {path}", np.unique(labels), classes)
    return {split: labels.astype(np.int64) for split, labels in arrays.items()}


def _check_classes(split: str, name: str, values: npt.NDArray[Any], classes: int) -> None:
    """Refuse labels whose distinct `values`, in ascending order, are not classes."""
    allowed = "but must be 0 to K-1 for K classes, two or more, each of which has train images"
    outside = [int(value) for value in values if not 0 <= value < classes]
    if outside:
        raise UserError(f"a label is {outside[0]}, {allowed} ({name})")
    if split == "train" and len(values) < max(classes, 2):
        missing = next(
            label
            for label in range(max(classes, 2))
            if label >= len(values) or values[label] != label
        )
        raise UserError(
            f"no label is {missing}, though the largest is {classes - 1}, {allowed} ({name})"
        )


def _to_bytes(name: str, array: npt.NDArray[Any], count: int) -> Images:
    """Images `(N, H, W)` or `(N, H, W, C)` as `(N, C, H, W)` in 0…255."""
    shape = array.shape
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[-1] not in (1, 3)):
        channels_first = len(shape) == 4 and shape[1] in (1, 3)
        advice = ": use numpy.moveaxis(images, 1, -1)" if channels_first else ""
        raise UserError(
            f"{name} have the shape {shape}, but must have (N, H, W) or (N, H, W, C), "
            f"C being 1 or 3{advice}"
        )
    if len(array) != count:
        raise UserError(f"{name} are {len(array)}, but must be {count}, as many as the labels")
    if not array.size:
        raise UserError(f"{name} have the shape {shape}, in which there are no pixels")
    pixels = _round(name, array)
    return np.moveaxis(pixels.reshape(*shape[:3], -1), -1, 1)


def _round(name: str, array: npt.NDArray[Any]) -> Images:
    """Pixels in 0…255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise UserError(f"{name} are {array.dtype}, but must be uint8 in 0…255 or floats in [0, 1]")
    wrong = array[~((array >= 0) & (array <= 1))]
    if len(wrong):
        raise UserError(
            f"{name} have the pixel {wrong[0]:g}, but must be in [0, 1]{_advice(wrong)}"
        )
    pixels: Images = np.rint(array * 255).astype(np.uint8)
    return pixels


def _advice(values: npt.NDArray[Any]) -> str:
    """How values above 1 are brought into [0, 1]; empty if others are negative or not finite."""
    if not (values.min() > 0 and np.isfinite(values.max())):
        return ""
    divisor = "255" if _DARK <= values.max() <= 255 else "their largest possible value"
    return f": divide them by {divisor}"


def _check_distinct(path: str | Path, labels: Labels, distinct: DistinctImages) -> None:
    """Refuse a class all of whose images are in other classes too."""
    missing = set(labels.tolist()) - set(labels[list(distinct.rows)].tolist())
    if missing:
        raise UserError(
            f"class {min(missing)} of {path} has no image that is not in another class too: an "
            "image must be in one class only"
        )
