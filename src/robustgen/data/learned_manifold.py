"""A learned manifold as attacks see it: the codes of images, and the decoders of their classes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn

from robustgen.specs import BOUND as BOUND


@dataclass(frozen=True)
class Learned:
    """Images of a data set, or a selection of them, on a learned manifold.

    Attributes:
        codes: `(..., D)` their codes, within `BOUND`.
        decoders: those of the classes.
    """

    codes: Tensor
    decoders: "Decoders"

    def take(self, index: Tensor | slice | tuple[slice, ...]) -> "Learned":
        """The selection of rows given by `index`, whose shape becomes the leading shape."""
        return replace(self, codes=self.codes[index])

    def tensors(self) -> list[Tensor]:
        """The codes, and the weights of the decoders."""
        weights = (decoder.state_dict().values() for decoder in self.decoders.decoders)
        return [self.codes, *chain.from_iterable(weights)]


class Decoders:
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
        """Images `(..., C, H, W)` of codes `(..., D)`, each by the decoder of its own class.

        Codes are sorted by class, so that each layer of each decoder is called once; memory grows
        with the codes, and with the classes by their weights alone.

        Args:
            codes: codes of any leading shape.
            labels: their classes, of that shape.
        """
        if len(self.decoders) == 1:
            made: Tensor = self.decoders[0](codes.flatten(0, -2))
            return made.view(*labels.shape, *made.shape[1:])
        flat, of = codes.flatten(0, -2), labels.flatten()
        order = of.argsort(stable=True)
        counts = torch.bincount(of, minlength=len(self.decoders)).tolist()
        made = _of_each(self.decoders, flat[order], counts)[order.argsort()]
        return made.view(*labels.shape, *made.shape[1:])


def _of_each(modules: Sequence[nn.Module], x: Tensor, counts: list[int]) -> Tensor:
    """What modules of one architecture make of `x`, each of its own rows.

    Args:
        modules: of one class each, in the order of the rows.
        x: the rows of all.
        counts: how many each has, one after another.
    """
    one = modules[0]
    if all(isinstance(module, nn.Sequential) for module in modules):
        for layers in zip(*modules, strict=True):
            x = _of_each(layers, x, counts)
        return x
    if not one.state_dict():  # the same function for all rows
        made: Tensor = one(x)
    elif of_each := getattr(type(one), "of_each", None):
        made = of_each(modules, x, counts)
    else:
        parts = zip(modules, torch.split(x, counts), strict=True)
        made = torch.cat([module(part) for module, part in parts if len(part)])
    return made
