"""Data sets of collected images, by kind."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
from torch import Tensor

from robustgen.data import public
from robustgen.data import user_images as own
from robustgen.data.balanced import Collection, assemble
from robustgen.data.download import fetch

PUBLIC: dict[str, Callable[[public.Fetch], Collection]] = {
    "emnist": public.emnist,
    "fashion_mnist": public.fashion_mnist,
    "celeba": public.celeba,
}
"""Readers of data sets that are fetched."""

OWN: dict[str, Callable[[str], Collection]] = {"images": own.images, "npz": own.npz}
"""Readers of the user's own files."""


def collect(
    kind: str, *, downloads: Mapping[str, Any], path: str | None = None, **settings: Any
) -> tuple[Tensor, pa.Table]:
    """The bank and the table of a data set, as `assemble` makes them.

    Args:
        kind: a key of `PUBLIC` or `OWN`.
        downloads: where public files are kept and fetched from: `folder` and `mirror`.
        path: where the user's own files are.
        settings: those of `assemble`.

    Raises:
        UserError: files are missing, damaged or not as they must be.
    """
    if kind in PUBLIC:
        collection = PUBLIC[kind](partial(fetch, **downloads))
    else:
        collection = OWN[kind](str(path))
    return assemble(collection, **settings)
