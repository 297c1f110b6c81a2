"""Models of few weights and images of six pixels, for which a test can compute results in loops."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from robustgen.backend import PLAIN
from robustgen.data.decoders import ClassDecoders, LearnedManifold
from robustgen.data.split import Split
from robustgen.specs import Threat

SHAPE = (1, 2, 3)
"""Channels, height and width of an image."""
CLASSES = 3
SIZE = 6
"""Number of pixels of an image."""
PARAMETER_BOUNDS = [-0.2] * 4 + [0.8, -0.2], [0.2] * 4 + [1.2, 0.2]
"""Lower and upper bounds of the six affine parameters."""
DOUBLE: Any = {"dtype": torch.float64}
"""Arguments for double precision, in which rounding does not change the order of two losses."""


class TinyCohort(nn.Module):
    """M networks of one hidden layer, with the interface of `Cohort` that attacks use."""

    def __init__(self, members: int, scale: float = 3.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(members)
        self.seeds, self.backend = [10 + member for member in range(members)], PLAIN
        self.hidden = scale * torch.randn(members, SIZE, 5, generator=generator, **DOUBLE)
        self.output = torch.randn(members, 5, CLASSES, generator=generator, **DOUBLE)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(M, B, K)` of images `(M, B, C, H, W)`."""
        return ((images.flatten(2) - 0.5) @ self.hidden).tanh() @ self.output

    def reference_forward(self, images: Tensor) -> Tensor:
        """Return the logits of `forward`; attacks verify successes with them."""
        return self(images)

    def member(self, position: int):
        """Return the model at `position`, a function from images `(B, C, H, W)` to logits."""
        return lambda images: (
            ((images.flatten(1) - 0.5) @ self.hidden[position]).tanh() @ self.output[position]
        )


def make_decoder(seed: int) -> nn.Module:
    """Return a decoder from codes `(B, 2)` to images, whose random weights follow from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(2, SIZE), nn.Sigmoid(), nn.Unflatten(1, SHAPE))
    return layers.double().eval().requires_grad_(False)


def make_tiny_split(examples: int = 12) -> Split:
    """Return random images, each with a label, six affine parameters and two latent codes."""
    generator = torch.Generator().manual_seed(1)
    lower, upper = (torch.tensor(bound, **DOUBLE) for bound in PARAMETER_BOUNDS)
    codes = lower + (upper - lower) * torch.rand(examples, 6, generator=generator, **DOUBLE)
    latents = 1.5 * torch.randn(examples, 2, generator=generator, **DOUBLE)
    decoders = ClassDecoders([make_decoder(label) for label in range(CLASSES)])
    return Split(
        source_images=torch.rand(examples, *SHAPE, generator=generator, **DOUBLE),
        source_index=torch.arange(examples),
        labels=torch.arange(examples) % CLASSES,
        codes=codes,
        ranges=(lower, upper),
        classes=("a", "b", "c"),
        learned={"learned_manifold": LearnedManifold(latents, decoders)},
    )


def in_single_precision(split: Split) -> Split:
    """Return the split as 32-bit floats, the precision in which attacks save images and codes."""
    learned = {
        name: LearnedManifold(
            manifold.codes.float(),
            ClassDecoders(
                [copy.deepcopy(decoder).float() for decoder in manifold.decoders.decoders]
            ),
        )
        for name, manifold in split.learned.items()
    }
    lower, upper = (bound.float() for bound in split.ranges)
    codes = None if split.codes is None else split.codes.float()
    source_images = split.source_images.float()
    return replace(
        split, source_images=source_images, codes=codes, ranges=(lower, upper), learned=learned
    )


def label_as_predicted(batch: Split, cohort: TinyCohort, wrong_count: int = 0) -> Split:
    """Return the batch `(M, B)` with the predicted classes as labels.

    The first `wrong_count` images of each model get another class, so that it misclassifies them.
    """
    with torch.no_grad():
        labels = cohort(batch.images()).argmax(-1)
    labels[:, :wrong_count] = (labels[:, :wrong_count] + 1) % CLASSES
    return replace(batch, labels=labels)


def project_by_hand(code: Tensor, clean_code: Tensor, threat: Threat, lower, upper) -> Tensor:
    """Return a code `(*D,)`, projected onto the ball around `clean_code`, then to the bounds."""
    delta = code - clean_code
    if threat.norm == "linf":
        delta = delta.clamp(-threat.radius, threat.radius)
    elif delta.norm() > threat.radius:
        delta = delta * (threat.radius / delta.norm())
    lower, upper = torch.as_tensor(lower), torch.as_tensor(upper)
    return torch.minimum(torch.maximum(clean_code + delta, lower), upper)
