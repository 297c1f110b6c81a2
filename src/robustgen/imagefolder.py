"""A folder of the user's images, with a sub-folder for each class."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from robustgen.errors import UserError, reading
from robustgen.files import whole
from robustgen.job import progress

NOTED = Path(".snakemake/robustgen")
"""Where digests of files are noted, below the folder in which the study runs."""
SETTLED = 2.0
"""Seconds after which a file that is changed again has another time stamp for sure."""

SUFFIXES = (".png", ".jpg", ".jpeg")
_MODES = {"L": "grey", "RGB": "colour"}


def _visible(folder: Path) -> list[Path]:
    """What a folder holds by name, hidden ones apart."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror}") from error


def image_files(path: str | Path) -> dict[str, list[Path]]:
    """The image files of each class, both ordered by name; files of other types do not count.

    Raises:
        UserError: there is no such folder, it has fewer than two sub-folders, or one of these has
            no images.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} to take images from")
    classes = [part for part in _visible(folder) if part.is_dir()]
    if len(classes) < 2:
        has = "1 sub-folder" if classes else "no sub-folders"
        raise UserError(
            f"the folder {folder} has {has}, but must have 2 or more, one for each class"
        )
    files = {
        part.name: [f for f in _visible(part) if f.suffix.lower() in SUFFIXES and not f.is_dir()]
        for part in classes
    }
    for name, held in files.items():
        if not held:
            raise UserError(
                f"the folder {folder / name} has no images, which end in .png, .jpg or .jpeg"
            )
    return files


def signature(path: str | Path) -> str:
    """A digest that changes when the images do; quick, as it is taken at every start.

    Files count by class, name and content. As with git, one is not read again whose size, times and
    place on the disk are those that were noted with its digest.

    Raises:
        UserError: as by `image_files`, or a file cannot be read.
    """
    note = NOTED / f"{hashlib.sha256(os.fsencode(Path(path).resolve())).hexdigest()[:16]}.json"
    known: dict[str, list[Any]] = {}
    with suppress(OSError, ValueError):
        known = json.loads(note.read_text(encoding="utf-8"))
    have, noted = [], {}
    for name, files in image_files(path).items():
        for file in files:
            try:
                about = file.stat()
                place = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
                digest, *before = known.get(f"{name}/{file.name}", [""])
                if place != before:
                    digest = hashlib.sha256(file.read_bytes()).hexdigest()
            except OSError as error:
                raise UserError(f"{file} cannot be read: {error.strerror}") from error
            have.append((name, file.name, digest))
            if time.time() - about.st_ctime > SETTLED:
                noted[f"{name}/{file.name}"] = [digest, *place]
    if noted != known:
        with suppress(UserError), whole(note) as partial:  # without a note, they are read again
            partial.write_text(json.dumps(noted), encoding="utf-8")
    return hashlib.sha256(json.dumps(have).encode()).hexdigest()


def _read(file: Path) -> npt.NDArray[np.uint8]:
    """One image `(C, H, W)`, C being 1 or 3."""
    formats = ("PNG", "JPEG")
    with reading(file, "PNG or JPEG file"), Image.open(file, formats=formats) as image:
        mode = image.mode
        pixels = np.asarray(image)
    if mode not in _MODES:
        raise UserError(f"{file} has the mode {mode}, but must have L (grey) or RGB (colour)")
    return np.moveaxis(pixels.reshape(*pixels.shape[:2], -1), -1, 0)


def first_shape(path: str | Path) -> tuple[int, int, int]:
    """Channels, height and width of the first image of a folder, as all of them must have.

    Raises:
        UserError: as by `image_files`, or this image cannot be read.
    """
    channels, height, width = _read(next(iter(image_files(path).values()))[0]).shape
    return channels, height, width


def _kind(image: npt.NDArray[np.uint8]) -> str:
    channels, height, width = image.shape
    return f"{height}x{width} and {'grey' if channels == 1 else 'colour'}"


def read_images(files: Sequence[Path]) -> npt.NDArray[np.uint8]:
    """The images `(N, C, H, W)` of `files`, C being 1 for grey and 3 for colour ones.

    Raises:
        UserError: a file cannot be read, is neither grey nor colour, or differs from the first in
            this or in size; it is named.
    """
    first = _read(files[0])
    images = np.empty((len(files), *first.shape), np.uint8)
    for row, file in enumerate(progress(files, "image")):
        image = _read(file)
        if image.shape != first.shape:
            raise UserError(
                f"{file} is {_kind(image)}, but must be {_kind(first)} (height x width), "
                f"as {files[0]} is"
            )
        images[row] = image
    return images
