"""Classifier architectures by name. To add one, write a module with `build` and list it here."""

from collections.abc import Callable

from torch import nn

from robustgen.models import convnet

ARCHITECTURES: dict[str, Callable[[tuple[int, int, int], int], nn.Module]] = {
    "convnet": convnet.build,
}


def build(architecture: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build a classifier of images of `shape` (C, H, W) into `classes`, without initialization."""
    return ARCHITECTURES[architecture](shape, classes)
