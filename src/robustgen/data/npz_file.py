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
from robustgen.io.digest_cache import is_settled, read_entry, read_stamp, write_entry
from robustgen.io.paths import IMAGES_PURPOSE, require_file

_PREFIXES = {"train": "", "test": "test_"}
_ARRAYS = "images and labels, and may have test_images and test_labels"
_CACHE_VERSION = 1
"""Version of the fields of `ArraySummary`; cached entries of other versions are not used."""
_MAX_BLACK_VALUE = 1
"""Values up to this one, of 255, look black."""
_MIN_BRIGHT_VALUE = 32
"""Images whose values are all below this one, of 255, may be class numbers or have 4 bits."""

log = logging.getLogger("robustgen")

Labels = npt.NDArray[np.int64]
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ArrayFile:
    """The content of an npz file.

    Attributes:
        images: by split, `(N, C, H, W)` in 0…255; the splits are "train" and, if the file has it,
            "test".
        labels: `(N,)` of the same splits.
        distinct: the distinct train images, which are used; None if the file has a test split, so
            that all train images are used.
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
        """Rows of the train images that are used."""
        if self.distinct is None:
            return np.arange(len(self.labels["train"]))
        return np.array(self.distinct.rows, np.int64)


@dataclass(frozen=True)
class ArraySummary:
    """The properties of an npz file that a study needs before a job reads the file.

    Attributes:
        digest: SHA-256 of the file.
        shape: channels, height and width of the images.
        train: number of train images of each class; copies of an image count once.
        test: number of test images of each class, which may be 0; None if the file has no test
            split.
    """

    digest: str
    shape: tuple[int, int, int]
    train: list[int]
    test: list[int] | None


def summarize(path: str | Path) -> ArraySummary:
    """Summarize an npz file; an unchanged file is not read again.

    Raises:
        UserError: as `read_arrays`.
    """
    file = require_file(path, IMAGES_PURPOSE)
    stamp = read_stamp(file)
    entry = read_entry(file)
    if entry.get("version") == _CACHE_VERSION and entry.get("stamp") == stamp:
        with suppress(KeyError, TypeError):
            fields: dict[str, Any] = entry["summary"]
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
        write_entry(file, {"version": _CACHE_VERSION, "stamp": stamp, "summary": asdict(summary)})
    return summary


def read_arrays(path: str | Path) -> ArrayFile:
    """Read an npz file; floats are rounded to the 256 values of a byte.

    Raises:
        UserError: the file is missing, damaged or lacks an array; labels are no whole numbers from
            0 to K-1, a class has no train image or there are no test images; images have a wrong
            number, shape or type, have pixels outside [0, 1], or are all black.
    """
    with _open_npz(path) as npz:
        required_names = ["images", "labels"]
        if {"test_images", "test_labels"} & set(npz.files):
            required_names += ["test_images", "test_labels"]
        for name in required_names:
            if name not in npz.files:
                raise UserError(f"{path} has no array {name}: it must have {_ARRAYS}")
        arrays = {name: npz[name] for name in required_names}
        other_arrays = tuple(name for name in npz.files if name not in required_names)
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
    """Check that no array is completely black.

    Args:
        name: the file or folder.
        images: pixels in 0…255, an array for each split.

    Raises:
        UserError: an array has no value above 1; it may be a mask of zeros and ones.
    """
    max_value = min(int(array.max(initial=0)) for array in images)
    if max_value <= _MAX_BLACK_VALUE:
        raise UserError(
            f"all images in {name} are nearly black, because the largest value is {max_value} of "
            "255: multiply the values by 255, or store floats in [0, 1]"
        )


def log_dark_images(name: str | Path, *images: Images) -> None:
    """Log a warning about arrays with low values only, such as class numbers or 4-bit images."""
    max_value = min(int(array.max(initial=0)) for array in images)
    if max_value < _MIN_BRIGHT_VALUE:
        log.warning("the images in %s are dark: their largest value is %d of 255", name, max_value)


@contextmanager
def _open_npz(path: str | Path) -> Iterator[NpzFile]:
    """Open an npz file; errors of NumPy become a `UserError` that names the file."""
    file = require_file(path, IMAGES_PURPOSE)
    try:
        with file.open("rb") as stream:
            magic = stream.read(2)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    if magic not in (b"PK", b"\x93N"):  # a zip archive, or a single array
        raise UserError(f"{file} is no npz file, as numpy.savez writes it")
    with reading(file, "npz file"):
        npz = np.load(file, allow_pickle=False)
        if not isinstance(npz, NpzFile):
            raise UserError(f"{file} is one array, but must be an npz file with {_ARRAYS}")
        with npz:
            yield npz


def _check_labels(path: str | Path, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Labels]:
    """Check that labels are 0 to K-1 and every class has a train image; return them as int64."""
    for split, labels in arrays.items():
        name = f"{_PREFIXES[split]}labels of {path}"
        if labels.ndim != 1 or not len(labels):
            raise UserError(
                f"{name} have the shape {labels.shape}, but must have (N,), with N of 1 or more"
            )
        if labels.dtype.kind not in "iu":
            raise UserError(f"{name} are {labels.dtype}, but must be of a type of whole numbers")
    classes = int(arrays["train"].max()) + 1
    for split, labels in arrays.items():
        _check_classes(split, f"{_PREFIXES[split]}labels of {path}", np.unique(labels), classes)
    return {split: labels.astype(np.int64) for split, labels in arrays.items()}


def _check_classes(split: str, name: str, values: npt.NDArray[Any], classes: int) -> None:
    """Check the distinct labels of a split, in ascending order."""
    allowed = (
        "but labels must be 0 to K-1 without gaps, for two or more classes with training images"
    )
    invalid = [int(value) for value in values if not 0 <= value < classes]
    if invalid:
        raise UserError(f"{name}: a label is {invalid[0]}, {allowed}")
    if split == "train" and len(values) < max(classes, 2):
        missing = next(
            label
            for label in range(max(classes, 2))
            if label >= len(values) or values[label] != label
        )
        raise UserError(
            f"{name}: the largest label is {classes - 1} and no label is {missing}, {allowed}"
        )


def _to_bytes(name: str, array: npt.NDArray[Any], count: int) -> Images:
    """Convert images `(N, H, W)` or `(N, H, W, C)` to `(N, C, H, W)` in 0…255."""
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
        raise UserError(f"{name} have the shape {shape}, which has no pixels")
    pixels = _round(name, array)
    return np.moveaxis(pixels.reshape(*shape[:3], -1), -1, 1)


def _round(name: str, array: npt.NDArray[Any]) -> Images:
    """Convert floats in [0, 1] to 0…255; return uint8 as it is."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise UserError(f"{name} are {array.dtype}, but must be uint8 in 0…255 or floats in [0, 1]")
    invalid = array[~((array >= 0) & (array <= 1))]
    if len(invalid):
        raise UserError(
            f"{name} have the pixel {invalid[0]:g}, but must be in [0, 1]{_scaling_hint(invalid)}"
        )
    pixels: Images = np.rint(array * 255).astype(np.uint8)
    return pixels


def _scaling_hint(values: npt.NDArray[Any]) -> str:
    """Say how to scale values above 1 to [0, 1]; empty if some are negative or not finite."""
    if not (values.min() > 0 and np.isfinite(values.max())):
        return ""
    is_byte = _MIN_BRIGHT_VALUE <= values.max() <= 255
    divisor = "255" if is_byte else "their largest possible value"
    return f": divide them by {divisor}"


def _check_distinct(path: str | Path, labels: Labels, distinct: DistinctImages) -> None:
    """Check that every class has an image that is in no other class."""
    missing = set(labels.tolist()) - set(labels[list(distinct.rows)].tolist())
    if missing:
        raise UserError(
            f"class {min(missing)} of {path} has no image that is not in another class too: an "
            "image must be in one class only"
        )
