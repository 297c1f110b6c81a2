"""The interface of a learned manifold for attacks: codes of images, and decoders of classes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LearnedManifold:
    """Images of a data set, or a selection of them, on a learned manifold.

    Attributes:
        codes: `(..., D)` codes of the images, within `specs.LATENT_BOUND`.
        decoders: the decoders of the classes.
    """

    codes: Tensor
    decoders: "ClassDecoders"

    def select(self, index: Tensor | slice | tuple[slice, ...]) -> "LearnedManifold":
        """Return the manifold with the codes `codes[index]` and the same decoders."""
        return replace(self, codes=self.codes[index])

    def identity_tensors(self) -> list[Tensor]:
        """Return the codes and the weights of the decoders."""
        weights = (decoder.state_dict().values() for decoder in self.decoders.decoders)
        return [self.codes, *chain.from_iterable(weights)]


class ClassDecoders:
    """The decoders of all classes as one function of codes and classes.

    Attributes:
        decoders: one per class, or one for all classes; in eval mode.
    """

    def __init__(self, decoders: Sequence[nn.Module]) -> None:
        for decoder in decoders:
            if decoder.training:
                raise ValueError("a decoder is in train mode; call eval() before decoding")
        self.decoders = list(decoders)

    def __call__(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Decode codes `(..., D)` to images `(..., C, H, W)`, each by the decoder of its class.

        The codes may be in any order. They are sorted here by class, so that each layer of each
        decoder is called once.

        Args:
            codes: codes of any leading shape.
            labels: classes of the codes, of the leading shape.
        """
        if len(self.decoders) == 1:
            images: Tensor = self.decoders[0](codes.flatten(0, -2))
            return images.view(*labels.shape, *images.shape[1:])
        flat_codes, flat_labels = codes.flatten(0, -2), labels.flatten()
        order = flat_labels.argsort(stable=True)
        counts = torch.bincount(flat_labels, minlength=len(self.decoders)).tolist()
        images = apply_per_class(self.decoders, flat_codes[order], counts)[order.argsort()]
        return images.view(*labels.shape, *images.shape[1:])


def apply_per_class(modules: Sequence[nn.Module], x: Tensor, counts: list[int]) -> Tensor:
    """Apply modules of one architecture to `x`, each to the rows of its own class.

    A layer type with a method `apply_per_class` of its own computes all classes at once.

    Args:
        modules: one module per class, in the order of the rows.
        x: rows of all classes, one class after another.
        counts: number of rows of each class.
    """
    first = modules[0]
    if all(isinstance(module, nn.Sequential) for module in modules):
        for layers in zip(*modules, strict=True):
            x = apply_per_class(layers, x, counts)
        return x
    if not first.state_dict():  # modules without parameters are equal for all classes
        result: Tensor = first(x)
    elif apply_all := getattr(type(first), "apply_per_class", None):
        result = apply_all(modules, x, counts)
    else:
        parts = zip(modules, torch.split(x, counts), strict=True)
        result = torch.cat([module(part) for module, part in parts if len(part)])
    return result
