"""Step rules: functions from the gradient of the loss to a step of the search."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.backend import BETA1, BETA2, EPS
from robustgen.specs import require_name


class StepRule(Protocol):
    """A function from a gradient to a step, with a state of its own.

    Attributes:
        state: tensors by name, each of the shape of the codes `(M, B, *D)`.
    """

    state: dict[str, Tensor]

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return the step for `gradient` `(M, B, *D)`, before it is scaled by the step size.

        A step has a length of about 1 in each coordinate, or an L2 norm of 1 per example.
        """
        ...


class AdamStep:
    """The step of Adam (Kingma and Ba, ICLR 2015), which the paper's published code uses."""

    def __init__(self, template: Tensor) -> None:
        self.state = {
            "exp_avg": torch.zeros_like(template),
            "exp_avg_sq": torch.zeros_like(template),
        }
        self.step_count = 0

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return the bias-corrected mean, divided by the root of the bias-corrected mean square."""
        bias_correction1, bias_correction2 = self.bias_corrections()
        exp_avg = self.state["exp_avg"].lerp_(gradient, 1 - BETA1)
        exp_avg_sq = self.state["exp_avg_sq"]
        exp_avg_sq.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        denominator = exp_avg_sq.div(bias_correction2).sqrt_().add_(EPS)
        return exp_avg.div(bias_correction1).div_(denominator)

    def bias_corrections(self) -> tuple[float, float]:
        """Count a step and return the divisors that correct the bias of mean and mean square."""
        self.step_count += 1
        return 1 - BETA1**self.step_count, 1 - BETA2**self.step_count


class SignStep:
    """The sign of the gradient (Goodfellow et al. 2015; Madry et al. 2018)."""

    def __init__(self, template: Tensor) -> None:
        del template
        self.state: dict[str, Tensor] = {}

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return a step of -1, 0 or 1 in each coordinate."""
        return gradient.sign()


class L2NormalizedStep:
    """The gradient divided by its L2 norm, for each example."""

    def __init__(self, template: Tensor) -> None:
        del template
        self.state: dict[str, Tensor] = {}

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return a step of L2 norm 1 per example; a zero gradient gives a zero step."""
        return F.normalize(gradient.flatten(2), dim=2, eps=1e-20).view_as(gradient)


STEP_RULES: dict[str, Callable[[Tensor], StepRule]] = {
    "adam": AdamStep,
    "signed": SignStep,
    "normalized": L2NormalizedStep,
}
"""Classes of step rules by name; each is called with a template of the codes `(M, B, *D)`."""


def make_step_rule(name: str, codes: Tensor) -> StepRule:
    """Return a new step rule `name` for codes `(M, B, *D)`.

    Raises:
        ValueError: there is no step rule of this name.
    """
    require_name("step_rule", name, STEP_RULES)
    return STEP_RULES[name](codes)
