"""Models and images of a few numbers, for which a test can compute the right answer in a loop."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from robustgen.backend import PLAIN
from robustgen.data.learned_manifold import ClassDecoders, LearnedManifold
from robustgen.data.split import Split
from robustgen.specs import Threat

SHAPE = (1, 2, 3)
"""Channels, height and width of an image."""
CLASSES = 3
SIZE = 6
"""Pixels of an image."""
RANGES = [-0.2] * 4 + [0.8, -0.2], [0.2] * 4 + [1.2, 0.2]
DOUBLE: Any = {"dtype": torch.float64}
"""So that rounding does not decide which of two almost equal losses is the higher one."""


class TinyCohort(nn.Module):
    """M networks of one hidden layer, by the interface of `Cohort` that attacks use."""

    def __init__(self, members: int, scale: float = 3.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(members)
        self.seeds, self.backend = [10 + member for member in range(members)], PLAIN
        self.hidden = scale * torch.randn(members, SIZE, 5, generator=generator, **DOUBLE)
        self.output = torch.randn(members, 5, CLASSES, generator=generator, **DOUBLE)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(M, B, K)` of images `(M, B, C, H, W)`."""
        return ((images.flatten(2) - 0.5) @ self.hidden).tanh() @ self.output

    def reference_forward(self, images: Tensor) -> Tensor:
        """The same, for the check of successes."""
        return self(images)

    def member(self, position: int):
        """One model: images `(B, C, H, W)` to logits `(B, K)`."""
        return lambda images: (
            ((images.flatten(1) - 0.5) @ self.hidden[position]).tanh() @ self.output[position]
        )


def make_decoder(seed: int) -> nn.Module:
    """A decoder from two codes to an image."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(2, SIZE), nn.Sigmoid(), nn.Unflatten(1, SHAPE))
    return layers.double().eval().requires_grad_(False)


def make_tiny_split(examples: int = 12) -> Split:
    """Random images, each with its label, six affine codes and two learned ones."""
    generator = torch.Generator().manual_seed(1)
    lower, upper = (torch.tensor(ends, **DOUBLE) for ends in RANGES)
    codes = lower + (upper - lower) * torch.rand(examples, 6, generator=generator, **DOUBLE)
    latents = 1.5 * torch.randn(examples, 2, generator=generator, **DOUBLE)
    decoders = ClassDecoders([make_decoder(label) for label in range(CLASSES)])
    return Split(
        bank=torch.rand(examples, *SHAPE, generator=generator, **DOUBLE),
        source=torch.arange(examples),
        labels=torch.arange(examples) % CLASSES,
        codes=codes,
        ranges=(lower, upper),
        classes=("a", "b", "c"),
        learned={"learned_manifold": LearnedManifold(latents, decoders)},
    )


def in_single_precision(split: Split) -> Split:
    """The same examples as floats of 32 bits, in which attacks save images and codes."""
    learned = {
        name: LearnedManifold(
            manifold.codes.float(),
            ClassDecoders(
                [copy.deepcopy(decoder).float() for decoder in manifold.decoders.decoders]
            ),
        )
        for name, manifold in split.learned.items()
    }
    lower, upper = (ends.float() for ends in split.ranges)
    codes = None if split.codes is None else split.codes.float()
    bank = split.bank.float()
    return replace(split, bank=bank, codes=codes, ranges=(lower, upper), learned=learned)


def label_as_predicted(batch: Split, cohort: TinyCohort, wrong: int = 0) -> Split:
    """The batch `(M, B)` with the labels that the models predict, except for the first `wrong`."""
    with torch.no_grad():
        predicted = cohort(batch.images()).argmax(-1)
    predicted[:, :wrong] = (predicted[:, :wrong] + 1) % CLASSES
    return replace(batch, labels=predicted)


def project_by_hand(codes: Tensor, origin: Tensor, threat: Threat, lower, upper) -> Tensor:
    """The code `(*D,)` moved into the ball of the threat around `origin`, then into the bounds."""
    delta = codes - origin
    if threat.norm == "linf":
        delta = delta.clamp(-threat.radius, threat.radius)
    elif delta.norm() > threat.radius:
        delta = delta * (threat.radius / delta.norm())
    lower, upper = torch.as_tensor(lower), torch.as_tensor(upper)
    return torch.minimum(torch.maximum(origin + delta, lower), upper)
