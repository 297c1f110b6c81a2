"""The user's own images, from a folder or an npz file."""

import numpy as np

from robustgen.arrayfile import read_images, read_labels
from robustgen.datasets.labelled import Collection, Labelled
from robustgen.imagefolder import image_files
from robustgen.imagefolder import read_images as read_files


def images(path: str) -> Collection:
    """The images of a folder with a sub-folder for each class.

    Raises:
        UserError: the folder or one of its files is not as it must be.
    """
    files = image_files(path)
    labels = np.repeat(np.arange(len(files)), [len(held) for held in files.values()])
    # All are read, so that a bad one is told whichever are chosen.
    held = read_files([file for of in files.values() for file in of])
    return Collection(f"the folder {path}", tuple(files), Labelled(labels, lambda rows: held[rows]))


def npz(path: str) -> Collection:
    """The images of an npz file; the classes are named by their numbers.

    Raises:
        UserError: the file is not as it must be.
    """
    labels = read_labels(path)
    splits = [_split(path, split, labels[split]) for split in labels]
    return Collection(path, tuple(map(str, np.unique(labels["train"]))), *splits)


def _split(path: str, split: str, labels: np.ndarray) -> Labelled:
    held = read_images(path, split, len(labels))
    return Labelled(labels, lambda rows: held[rows])
