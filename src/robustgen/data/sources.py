"""Readers of data sets from files, by kind."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
from torch import Tensor

from robustgen.data import public, user_images
from robustgen.data.balanced import RawDataset, build_dataset
from robustgen.data.download import fetch

PUBLIC_READERS: dict[str, Callable[[public.Fetch], RawDataset]] = {
    "emnist": public.emnist,
    "fashion_mnist": public.fashion_mnist,
    "celeba": public.celeba,
}
"""Readers of data sets that are downloaded."""

USER_READERS: dict[str, Callable[[str], RawDataset]] = {
    "images": user_images.read_folder,
    "npz": user_images.read_npz,
}
"""Readers of files of the user."""


def collect(
    kind: str, *, downloads: Mapping[str, Any], path: str | None = None, **settings: Any
) -> tuple[Tensor, pa.Table]:
    """Read a data set; return its images and its table, which `build_dataset` describes.

    Args:
        kind: a key of `PUBLIC_READERS` or `USER_READERS`.
        downloads: the `folder` in which public files are stored, and their `mirror`.
        path: path of the user's files.
        settings: further arguments of `build_dataset`.

    Raises:
        UserError: files are missing or damaged, or have a content that is not allowed.
    """
    if kind in PUBLIC_READERS:
        raw = PUBLIC_READERS[kind](partial(fetch, **downloads))
    else:
        raw = USER_READERS[kind](str(path))
    return build_dataset(raw, **settings)
