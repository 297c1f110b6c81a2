"""Classifier architectures by name; a new one is a module with `build` and a line here."""

from collections.abc import Callable

from torch import nn

from robustgen.models import convnet

ARCHITECTURES: dict[str, Callable[[tuple[int, int, int], int], nn.Module]] = {
    "convnet": convnet.build,
}


def build(architecture: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A classifier of images of `shape` (C, H, W) into `classes`, not yet initialized."""
    return ARCHITECTURES[architecture](shape, classes)
