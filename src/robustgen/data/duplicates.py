"""Images that occur more than once in a data set of the user."""

import hashlib
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

log = logging.getLogger("robustgen")


@dataclass(frozen=True)
class DistinctImages:
    """The distinct images of a data set.

    Attributes:
        rows: rows of the distinct images.
        copies: pairs of the row of a copy that is left out, and the row of the distinct image,
            which has the same class.
        contradictions: pairs of the row of an image that is left out, and the row of the same image
            in another class.
    """

    rows: tuple[int, ...]
    copies: tuple[tuple[int, int], ...]
    contradictions: tuple[tuple[int, int], ...]

    def log_left_out(self, name_image: Callable[[int], str]) -> None:
        """Log how many images are left out and why, with one example of each reason.

        Args:
            name_image: returns the name of the image of a row.
        """
        for pairs, reason in (
            (self.copies, "copies of images of the same class"),
            (self.contradictions, "images that occur in more than one class"),
        ):
            if pairs:
                copy, original = map(name_image, pairs[0])
                log.warning(
                    "%d %s left out, e.g. %s (equal to %s)", len(pairs), reason, copy, original
                )


def find_distinct(labels: Sequence[int], contents: Sequence[Hashable]) -> DistinctImages:
    """Find the distinct images.

    Of images with the same content and label, the first one is kept. Images with the same content
    and different labels are all left out, because it is not known which label is correct.

    Args:
        labels: the class of each image.
        contents: a value of each image that is equal for equal images, e.g. a digest.
    """
    rows_by_content: dict[Hashable, list[int]] = {}
    for row, content in enumerate(contents):
        rows_by_content.setdefault(content, []).append(row)
    unique_rows: list[int] = []
    copies: list[tuple[int, int]] = []
    contradictions: list[tuple[int, int]] = []
    for rows in rows_by_content.values():
        first = rows[0]
        other_rows = [row for row in rows if labels[row] != labels[first]]
        if other_rows:
            contradictions += [
                (row, other_rows[0] if labels[row] == labels[first] else first) for row in rows
            ]
        else:
            unique_rows.append(first)
            copies += [(row, first) for row in rows[1:]]
    return DistinctImages(tuple(unique_rows), tuple(copies), tuple(contradictions))


def digest_pixels(images: npt.NDArray[np.uint8]) -> list[bytes]:
    """Return a digest of the pixels of each image `(N, ...)`."""
    return [
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        for image in images
    ]
