"""Readers of the user's images, in a folder or an npz file."""

import logging

import numpy as np
import numpy.typing as npt

from robustgen.data import image_folder
from robustgen.data.balanced import LabelledImages, RawDataset
from robustgen.data.npz_file import log_dark_images, read_arrays, require_visible

log = logging.getLogger("robustgen")


def read_folder(path: str) -> RawDataset:
    """Read the distinct images of a folder that has a subfolder for each class.

    Raises:
        UserError: the folder or a file in it cannot be used.
    """
    folder = image_folder.scan(path)
    folder.count_images()
    folder.log_left_out()
    rows = folder.distinct.rows
    labels = np.array([folder.labels[row] for row in rows], np.int64)
    # All images are read, so that an unusable file is reported even if it is not selected.
    pixels = image_folder.read_images([folder.files[row] for row in rows])
    name = f"the folder {path}"
    require_visible(name, pixels)
    log_dark_images(name, pixels)
    return RawDataset(name, folder.classes, _labelled(pixels, labels))


def read_npz(path: str) -> RawDataset:
    """Read the images of an npz file; without a test split, equal images count once.

    The names of the classes are their numbers.

    Raises:
        UserError: the file cannot be used.
    """
    content = read_arrays(path)
    log_dark_images(path, *content.images.values())
    if content.other_arrays:
        log.warning("unknown arrays are not used: %s", ", ".join(content.other_arrays))
    if content.distinct is not None:
        content.distinct.log_left_out(lambda row: f"image {row}")
    rows = content.train_rows
    train = _labelled(content.images["train"][rows], content.labels["train"][rows])
    test = None
    if "test" in content.labels:
        test = _labelled(content.images["test"], content.labels["test"])
    return RawDataset(path, tuple(map(str, range(content.classes))), train, test)


def _labelled(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> LabelledImages:
    return LabelledImages(labels, lambda rows: pixels[rows])
