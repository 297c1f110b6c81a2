"""The user's own images, from a folder or an npz file."""

import logging

import numpy as np
import numpy.typing as npt

from robustgen.data import image_folder as imagefolder
from robustgen.data.balanced import Collection, Labelled
from robustgen.data.npz_file import log_dark_images, read_arrays, require_visible

log = logging.getLogger("robustgen")


def images(path: str) -> Collection:
    """The distinct images of a folder with a sub-folder for each class.

    Raises:
        UserError: the folder or one of its files is not as it must be.
    """
    folder = imagefolder.scan(path)
    folder.count_images()
    folder.log_left_out()
    rows = folder.distinct.rows
    labels = np.array([folder.labels[row] for row in rows], np.int64)
    # All images are read, so that a bad file is reported whichever images are chosen.
    pixels = imagefolder.read_images([folder.files[row] for row in rows])
    name = f"the folder {path}"
    require_visible(name, pixels)
    log_dark_images(name, pixels)
    return Collection(name, folder.classes, _labelled(pixels, labels))


def npz(path: str) -> Collection:
    """The images of an npz file, of which each counts once if the file has no test split.

    The classes are named by their numbers.

    Raises:
        UserError: the file is not as it must be.
    """
    content = read_arrays(path)
    log_dark_images(path, *content.images.values())
    if content.other_arrays:
        log.warning("arrays left out: %s", ", ".join(content.other_arrays))
    if content.distinct is not None:
        content.distinct.log_left_out(lambda row: f"image {row}")
    rows = content.train_rows
    train = _labelled(content.images["train"][rows], content.labels["train"][rows])
    test = None
    if "test" in content.labels:
        test = _labelled(content.images["test"], content.labels["test"])
    return Collection(path, tuple(map(str, range(content.classes))), train, test)


def _labelled(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Labelled:
    return Labelled(labels, lambda rows: pixels[rows])
