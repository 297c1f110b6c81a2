"""A folder of the user's images, with a subfolder for each class."""

import hashlib
import json
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from robustgen.data.duplicates import DistinctImages, find_distinct
from robustgen.errors import UserError, reading
from robustgen.io.digest_cache import is_settled, read_entry, read_stamp, write_entry
from robustgen.io.paths import (
    IMAGES_PURPOSE,
    count_suffixes,
    is_folder,
    list_folder,
    require_folder,
    walk_files,
)
from robustgen.progress import log_progress

log = logging.getLogger("robustgen")

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_SUFFIX_LIST = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_FORMAT_LIST = "PNG, JPEG, WebP, TIFF or BMP file"
_MODES = ("L", "RGB")
_OTHER_MODES = {
    "1": "black and white",
    "P": "a palette",
    "PA": "a transparent palette",
    "LA": "grey and transparent",
    "RGBA": "colour and transparent",
    "CMYK": "colours for print",
    "I": "more than 8 bits per pixel",
    "F": "floats",
}
_SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}


@dataclass(frozen=True)
class ImageFolder:
    """The image files of a folder.

    Attributes:
        path: the folder.
        classes: names of the classes, which are those of the subfolders.
        files: the image files, class by class, ordered by relative path.
        labels: the class of each file.
        digests: a digest of the content of each file.
        other_files: visible files that are not read, because of their suffix or because they are
            in no subfolder.
    """

    path: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    digests: tuple[str, ...]
    other_files: tuple[Path, ...]

    @cached_property
    def distinct(self) -> DistinctImages:
        """The files that are read, of which those with the same content count once."""
        return find_distinct(self.labels, self.digests)

    def count_images(self) -> list[int]:
        """Return the number of distinct images of each class.

        Raises:
            UserError: a class has none, because all its images are in other classes too.
        """
        class_counts = Counter(self.labels[row] for row in self.distinct.rows)
        counts = [class_counts[label] for label in range(len(self.classes))]
        for name, count in zip(self.classes, counts, strict=True):
            if not count:
                raise UserError(
                    f"the folder {self.path / name} has no image that is not in the folder of "
                    "another class too: an image must be in one class only"
                )
        return counts

    def signature(self) -> str:
        """Return a digest of the classes, relative paths and contents of the images."""
        names = [
            file.relative_to(self.path / self.classes[label]).as_posix()
            for file, label in zip(self.files, self.labels, strict=True)
        ]
        classes = [self.classes[label] for label in self.labels]
        content = list(zip(classes, names, self.digests, strict=True))
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def log_left_out(self) -> None:
        """Log which files are not read, and which images occur more than once."""
        if self.other_files:
            log.warning(
                "%d files left out, which are not in the folder of a class or do not end in %s: %s",
                len(self.other_files),
                _SUFFIX_LIST,
                count_suffixes(self.other_files),
            )
        names = [file.relative_to(self.path).as_posix() for file in self.files]
        self.distinct.log_left_out(lambda row: names[row])


def scan(path: str | Path) -> ImageFolder:
    """List the image files of a folder, without reading files whose digests are cached.

    Raises:
        UserError: the folder does not exist, it has fewer than two subfolders, one of these has no
            images, or a file cannot be read.
    """
    folder = require_folder(path, IMAGES_PURPOSE)
    files_by_class, other_files = _list_files(folder)
    files = [file for files in files_by_class.values() for file in files]
    counts = [len(files) for files in files_by_class.values()]
    return ImageFolder(
        folder,
        tuple(files_by_class),
        tuple(files),
        tuple(np.repeat(np.arange(len(counts)), counts).tolist()),
        tuple(_digest_files(folder, files)),
        tuple(other_files),
    )


def _list_files(folder: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return the image files of each class, and the files that are not read."""
    paths = list_folder(folder)
    class_folders = [path for path in paths if is_folder(path)]
    _check_classes(folder, [path.name for path in class_folders])
    other_files = [path for path in paths if path not in class_folders]
    files_by_class: dict[str, list[Path]] = {}
    for class_folder in class_folders:
        files = walk_files(class_folder)
        images = [file for file in files if file.suffix.lower() in SUFFIXES]
        if not images:
            raise UserError(
                f"the folder {class_folder.absolute()} has no images, which end in {_SUFFIX_LIST}"
            )
        files_by_class[class_folder.name] = images
        other_files += [file for file in files if file.suffix.lower() not in SUFFIXES]
    return files_by_class, other_files


def _check_classes(folder: Path, names: Sequence[str]) -> None:
    """Check the names of the subfolders, which must be classes.

    Raises:
        UserError: there are fewer than two, all are names of splits, or one cannot be printed.
    """
    requirement = "but must have 2 or more, one for each class"
    if len(names) < 2:
        number = "1 sub-folder" if names else "no sub-folders"
        raise UserError(f"the folder {folder} has {number}, {requirement}")
    if _SPLIT_NAMES.issuperset(name.lower() for name in names):
        raise UserError(
            f"the folder {folder} has the sub-folders {', '.join(names)}, which are splits, "
            f"{requirement}: join the splits, because the workflow makes its own"
        )
    for name in names:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise UserError(
                f"the folder {folder} has the sub-folder {name!a}, but the name of a class must "
                "be UTF-8 without control characters"
            )


def _digest_files(folder: Path, files: Sequence[Path]) -> list[str]:
    """Return a digest of each file; digests of unchanged files are taken from the cache."""
    cached: dict[str, Any] = read_entry(folder)
    entry: dict[str, Any] = {}
    digests = []
    for file in files:
        name, stamp = file.relative_to(folder).as_posix(), read_stamp(file)
        digest, *cached_stamp = cached.get(name, [""])
        if cached_stamp != stamp:
            try:
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
            except OSError as error:
                raise UserError(f"{file} cannot be read: {error.strerror}") from error
        digests.append(digest)
        if is_settled(stamp):
            entry[name] = [digest, *stamp]
    if entry != cached:
        write_entry(folder, entry)
    return digests


def read_images(files: Sequence[Path]) -> npt.NDArray[np.uint8]:
    """Read images `(N, C, H, W)`, where C is 1 for grey and 3 for colour images.

    Raises:
        UserError: a file cannot be read, is neither grey nor colour, or differs from the first file
            in size or channels. The message names the file.
    """
    first = read_image(files[0])
    images = np.empty((len(files), *first.shape), np.uint8)
    for row, file in enumerate(log_progress(files, "image")):
        image = read_image(file)
        if image.shape != first.shape:
            raise UserError(
                f"{file} is {_describe(image)}, but must be {_describe(first)} (height x width), "
                f"as {files[0]} is"
            )
        images[row] = image
    return images


def read_image(file: Path) -> npt.NDArray[np.uint8]:
    """Read an image `(C, H, W)`, where C is 1 or 3, rotated by its EXIF orientation.

    Raises:
        UserError: the file cannot be read, has several images, or is neither grey nor colour.
    """
    with reading(file, _FORMAT_LIST), Image.open(file, formats=_FORMATS) as image:
        _check_image(file, image)
        pixels = np.asarray(ImageOps.exif_transpose(image))
    return np.moveaxis(pixels.reshape(*pixels.shape[:2], -1), -1, 0)


def _check_image(file: Path, image: Image.Image) -> None:
    """Check that an image is 8-bit grey or colour, so that reading it loses nothing.

    Raises:
        UserError: it is not.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # the first image of an MPO file is the photo
        raise UserError(f"{file} has {frames} images or frames, but must have 1")
    if image.mode not in _MODES:
        mode = _OTHER_MODES.get(image.mode)
        if image.mode.startswith("I;16"):
            mode = "16 bits per pixel"
        raise UserError(
            f"{file} has the mode {image.mode}{f' ({mode})' if mode else ''}, but must have L "
            "(grey) or RGB (colour) with 8 bits per channel: convert the file"
        )
    # Of 16 bits per channel, Pillow silently reads the upper 8.
    if any(re.search(r";16[BLN]", str(tile[3])) for tile in getattr(image, "tile", [])):
        raise UserError(f"{file} has 16 bits per channel, but must have 8: convert the file")
    if "transparency" in image.info:
        raise UserError(f"{file} has a transparent colour, but must have none: convert the file")


def _describe(image: npt.NDArray[np.uint8]) -> str:
    channels, height, width = image.shape
    return f"{height}x{width} and {'grey' if channels == 1 else 'colour'}"
