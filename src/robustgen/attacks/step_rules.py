"""How a search steps along a gradient."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class StepRule(Protocol):
    """Turns gradients into steps; holds one tensor of state per name, shaped like the codes."""

    state: dict[str, Tensor]

    def __call__(self, gradient: Tensor) -> Tensor:
        """A step of about unit length per coordinate (L-infinity) or in all (L2)."""
        ...


class Adam:
    """Ascent with Adam (Kingma & Ba 2015), as in the code published with Stutz et al. 2019."""

    def __init__(self, like: Tensor) -> None:
        self.state = {"mean": torch.zeros_like(like), "square": torch.zeros_like(like)}
        self.taken = 0

    def __call__(self, gradient: Tensor) -> Tensor:
        """The bias-corrected mean over the root of the bias-corrected mean square."""
        of_mean, of_square = self.advance()
        mean = self.state["mean"].lerp_(gradient, 1 - 0.9)
        square = self.state["square"].mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        root = square.div(of_square).sqrt_().add_(1e-8)
        return mean.div(of_mean).div_(root)

    def advance(self) -> tuple[float, float]:
        """Count a step: by what mean and mean square are too small so far."""
        self.taken += 1
        return 1 - 0.9**self.taken, 1 - 0.999**self.taken


class Signed:
    """The sign of the gradient (Goodfellow et al. 2015; Madry et al. 2018)."""

    def __init__(self, like: Tensor) -> None:
        del like
        self.state: dict[str, Tensor] = {}

    def __call__(self, gradient: Tensor) -> Tensor:
        """Steps of -1, 0 or 1."""
        return gradient.sign()


class Normalized:
    """The gradient at unit L2 length."""

    def __init__(self, like: Tensor) -> None:
        del like
        self.state: dict[str, Tensor] = {}

    def __call__(self, gradient: Tensor) -> Tensor:
        """Steps of L2 length 1; a zero gradient stays zero."""
        return F.normalize(gradient.flatten(2), dim=2, eps=1e-20).view_as(gradient)


STEP_RULES: dict[str, Callable[[Tensor], StepRule]] = {
    "adam": Adam,
    "signed": Signed,
    "normalized": Normalized,
}
