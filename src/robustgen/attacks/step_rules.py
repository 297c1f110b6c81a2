"""Step rules: how a search moves from the current codes to the next ones."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.attacks.spaces import ImageSpace, Space, clip_norm_, perturbation_norm
from robustgen.backend import BETA1, BETA2, EPS
from robustgen.sampling import expand_trailing_dims, hash_points, sample_uniforms
from robustgen.specs import SearchConfig, Threat, require_name

MAX_CHANGED_SHARE = 0.8
"""Share of the pixels or coordinates that the first steps of `RandomSearch` change."""
SHARE_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the steps after which `RandomSearch` changes half as many (Andriushchenko et al.)."""
MOMENTUM = 0.75
"""Share of the gradient step in a step of `AutoStep`; the rest repeats the last step."""
MIN_RISES = 0.75
"""Share of steps that must raise the loss, lest `AutoStep` halves the step size."""
FIRST_PERIOD, PERIOD_DECREASE, MIN_PERIOD = 0.22, 0.03, 0.06
"""Lengths of the periods between the checks of `AutoStep`, as shares of all steps."""
FMN_STEP_LENGTHS, FMN_RADIUS_CHANGES = (0.1, 0.001), (0.3, 0.001)
"""First and last value of two settings of `FastMinimumNorm`, which fall as half a cosine: the L2
length of a step, as a share of the diagonal of the space, and the share by which a radius changes.
Published are a length of 1 and a change of 0.05, which find larger perturbations in codes."""
MIN_SLOPE = 1e-12
"""Smallest norm of a gradient by which `FastMinimumNorm` divides."""
CW_WEIGHT, CW_LEARNING_RATE = 1.0, 0.05
"""Weight of the margin in the objective of `CarliniWagner`, and the learning rate of Adam."""
CW_CLEAN_SCALE = 0.99
"""Factor on clean codes within their bounds. Closer to 1, black and white pixels hardly move."""


class Iterate(NamedTuple):
    """The codes of a search before a step.

    Attributes:
        codes: `(M, B, *D)` current codes.
        loss: `(M, B)` their losses.
        gradient: `(M, B, *D)` gradients of the losses with respect to the codes; zeros for a step
            rule that does not need them.
    """

    codes: Tensor
    loss: Tensor
    gradient: Tensor


class StepRule(ABC):
    """A rule for the next codes of a search, with a state of its own.

    Attributes:
        state: tensors by name, each `(M, B, ...)` with a value for each example. The search drops
            the examples from them whose search has ended.
        needs_gradient: whether `next_codes` uses the gradients.
    """

    needs_gradient = True

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    @abstractmethod
    def next_codes(
        self, space: Space, iterate: Iterate, threat: Threat, search: SearchConfig
    ) -> Tensor:
        """Return the next codes `(M, B, *D)`, which lie in the threat and within the bounds.

        Args:
            space: the space around the examples.
            iterate: the current codes with their losses and gradients.
            threat: the ball to search.
            search: step size and number of steps.
        """


class FixedStepRule(StepRule):
    """A function from a gradient to a step, which is multiplied by the step size of the search."""

    @abstractmethod
    def __call__(self, gradient: Tensor) -> Tensor:
        """Return the step for `gradient` `(M, B, *D)`, before it is scaled by the step size.

        A step has a length of about 1 in each coordinate, or an L2 norm of 1 per example.
        """

    def next_codes(
        self, space: Space, iterate: Iterate, threat: Threat, search: SearchConfig
    ) -> Tensor:
        """Return the codes after a step along the gradient, projected into the threat."""
        codes = iterate.codes.add(self(iterate.gradient), alpha=search.step_size)
        return space.project(codes, threat)


class AdamStep(FixedStepRule):
    """The step of Adam (Kingma and Ba, ICLR 2015), which the paper's published code uses."""

    def __init__(self, template: Tensor) -> None:
        super().__init__()
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


class SignStep(FixedStepRule):
    """The sign of the gradient (Goodfellow et al. 2015; Madry et al. 2018)."""

    def __init__(self, template: Tensor) -> None:
        super().__init__()
        del template

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return a step of -1, 0 or 1 in each coordinate."""
        return gradient.sign()


class L2NormalizedStep(FixedStepRule):
    """The gradient divided by its L2 norm, for each example."""

    def __init__(self, template: Tensor) -> None:
        super().__init__()
        del template

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return a step of L2 norm 1 per example; a zero gradient gives a zero step."""
        return _normalize(gradient)


class AutoStep(StepRule):
    """Steps without a step size to choose: AutoPGD (Croce and Hein, ICML 2020, algorithm 1).

    A step is a step of projected gradient ascent with momentum. The first step size is twice the
    radius. Some steps check each example (the paper's checkpoints): its step size is halved if the
    loss rose in three quarters or less of the steps since the last check, or if neither step size
    nor highest loss changed since then. The example then continues from the codes of its highest
    loss.
    """

    def __init__(self, template: Tensor) -> None:
        super().__init__()
        examples = template.shape[:2]
        self.state = {
            "last_codes": template.clone(),
            "best_codes": template.clone(),
            "best_gradient": torch.zeros_like(template),
            "best_loss": template.new_full(examples, -torch.inf),
            "last_loss": template.new_full(examples, torch.inf),
            "loss_at_last_check": template.new_full(examples, -torch.inf),
            "halvings": template.new_zeros(examples),
            "has_halved": torch.ones(examples, dtype=torch.bool, device=template.device),
            "rises": template.new_zeros(examples),
        }
        self.step_count = self.last_check_step = 0

    def next_codes(
        self, space: Space, iterate: Iterate, threat: Threat, search: SearchConfig
    ) -> Tensor:
        """Return the codes after a step with momentum."""
        self._record(iterate)
        codes, gradient = iterate.codes, iterate.gradient
        if self.step_count in list_check_steps(search.steps):
            codes, gradient = self._halve_steps(codes, gradient)
        step_size = 2 * threat.radius * 0.5 ** self.state["halvings"]
        direction = gradient.sign() if threat.norm == "linf" else _normalize(gradient)
        stepped = space.project(codes + expand_trailing_dims(step_size, codes) * direction, threat)
        if self.step_count:
            inertia = codes - self.state["last_codes"]
            stepped = codes + MOMENTUM * (stepped - codes) + (1 - MOMENTUM) * inertia
            stepped = space.project(stepped, threat)
        self.state["last_codes"] = codes
        self.step_count += 1
        return stepped

    def _record(self, iterate: Iterate) -> None:
        """Count a rise of the loss, and keep the codes of the highest loss with their gradient."""
        state = self.state
        state["rises"] = state["rises"] + (iterate.loss > state["last_loss"])
        _keep_best(state, iterate)
        state["last_loss"] = iterate.loss
        if self.step_count == 0:
            state["loss_at_last_check"] = iterate.loss

    def _halve_steps(self, codes: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Halve the steps of examples that do not improve, and return them to their best codes."""
        state = self.state
        period = self.step_count - self.last_check_step
        is_oscillating = state["rises"] <= MIN_RISES * period
        is_stuck = ~state["has_halved"] & (state["loss_at_last_check"] >= state["best_loss"])
        halves = is_oscillating | is_stuck
        state["halvings"] = state["halvings"] + halves
        state["has_halved"], state["loss_at_last_check"] = halves, state["best_loss"]
        state["rises"] = torch.zeros_like(state["rises"])
        self.last_check_step = self.step_count
        restarts = expand_trailing_dims(halves, codes)
        return (
            torch.where(restarts, state["best_codes"], codes),
            torch.where(restarts, state["best_gradient"], gradient),
        )


class RandomSearch(StepRule):
    """A search without gradients: random changes, which are kept where they raise the loss.

    Masked gradients cannot mislead it. In the space `image` a change is a square with one sign per
    channel, as in the Square attack (Andriushchenko et al., ECCV 2020). In the L2 norm it is added
    and the sum projected onto the ball, instead of moving mass between two squares. In other spaces
    it is a random value of some of the coordinates. The share of the pixels or
    coordinates that change falls with the steps as published.
    """

    needs_gradient = False

    def __init__(self, template: Tensor) -> None:
        super().__init__()
        self.state = {
            "best_codes": template.clone(),
            "best_loss": template.new_full(template.shape[:2], -torch.inf),
            "keys": hash_points(template),
        }
        self.step_count = 0

    def next_codes(
        self, space: Space, iterate: Iterate, threat: Threat, search: SearchConfig
    ) -> Tensor:
        """Return a random change of the best codes."""
        _keep_best(self.state, iterate)
        best = self.state["best_codes"]
        draw = self._draw_square if isinstance(space, ImageSpace) else self._draw_coordinates
        mask, values = draw(best, self.step_count / search.steps)
        self.step_count += 1
        if threat.norm == "linf":
            changed = torch.where(mask, space.clean_codes + threat.radius * values, best)
        else:  # a change of all coordinates has the length of the radius
            largest = threat.radius / best[0, 0].numel() ** 0.5
            changed = best + largest * torch.where(mask, values, 0.0)
        return space.project(changed, threat)

    def _draw_coordinates(self, template: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """Draw which coordinates change, one at least, and their values.

        Args:
            template: `(M, B, *D)` codes.
            progress: share of the steps that are done.

        Returns:
            A mask and values in [-1, 1], each like `template`.
        """
        size = template[0, 0].numel()
        numbers = sample_uniforms(self.state["keys"], self.step_count, 2 * size + 1)
        mask = numbers[..., :size] < _changed_share(progress)
        mask = mask.scatter(-1, (numbers[..., -1:] * size).long(), True)
        values = (3 * numbers[..., size:-1] - 1.5).clamp(-1, 1)  # a third of them is -1 or 1
        return mask.view_as(template), values.view_as(template)

    def _draw_square(self, template: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """Draw which pixels change, and their values; at first vertical stripes in all pixels.

        The arguments and results are those of `_draw_coordinates`.
        """
        channels, height, width = template.shape[2:]
        numbers = sample_uniforms(self.state["keys"], self.step_count, 2 + channels * width)
        signs = (numbers[..., 2:] < 0.5).to(template.dtype) * 2 - 1
        if self.step_count == 0:
            stripes = signs.view(*template.shape[:3], 1, width)
            return torch.ones_like(template, dtype=torch.bool), stripes.expand_as(template)
        side = round((_changed_share(progress) * height * width) ** 0.5)
        side = max(min(side, height - 1, width - 1), 1)
        rows = _mask_segments(numbers[..., 0], side, height)[..., :, None]
        columns = _mask_segments(numbers[..., 1], side, width)[..., None, :]
        mask = (rows & columns)[:, :, None].expand_as(template)
        return mask, signs[..., :channels, None, None].expand_as(template)


class FastMinimumNorm(StepRule):
    """Steps to the nearest misclassified codes: FMN (Pintor et al., NeurIPS 2021, algorithm 1).

    A step along the normalized gradient is followed by a projection onto a ball around the clean
    codes, whose radius is adapted for each example. It shrinks where the codes are misclassified,
    and grows where they are not, by a share that falls with the steps. Until the first success it
    also grows by the distance at which the linearized loss changes its sign.

    Published is to add this distance to the norm of the last perturbation instead of the last
    radius. The bounds of the space make this norm smaller than the radius: in the L2 norm, on
    images with black or white pixels, the search is then stuck before the boundary.
    """

    def __init__(self, template: Tensor) -> None:
        super().__init__()
        examples = template.shape[:2]
        self.state = {
            "radius": template.new_zeros(examples),
            "smallest_size": template.new_full(examples, torch.inf),
        }
        self.step_count = 0

    def next_codes(
        self, space: Space, iterate: Iterate, threat: Threat, search: SearchConfig
    ) -> Tensor:
        """Return the codes after a step and a projection onto the ball of the example."""
        progress = self.step_count / search.steps
        self.step_count += 1
        delta = iterate.codes - space.clean_codes
        self._adapt_radius(delta, iterate, threat.norm, _anneal(FMN_RADIUS_CHANGES, progress))
        lower, upper = space.bounds()
        diagonal = (upper - lower).expand(delta.shape[2:]).norm()
        delta = delta + _anneal(FMN_STEP_LENGTHS, progress) * diagonal * _normalize(
            iterate.gradient
        )
        clip_norm_(delta, threat.norm, expand_trailing_dims(self.state["radius"], delta))
        return space.clamp_(delta.add_(space.clean_codes))

    def _adapt_radius(self, delta: Tensor, iterate: Iterate, norm: str, change: float) -> None:
        """Shrink the balls of misclassified codes, and let the others grow.

        Args:
            delta: `(M, B, *D)` perturbations.
            iterate: the current codes.
            norm: norm of the perturbations.
            change: share by which a radius shrinks or grows.
        """
        radius, smallest_size = self.state["radius"], self.state["smallest_size"]
        is_wrong = iterate.loss > 0
        size = perturbation_norm(delta, norm).minimum(smallest_size)
        smallest_size = torch.where(is_wrong, size, smallest_size)
        dual_norm = "l2" if norm == "l2" else "l1"
        slope = perturbation_norm(iterate.gradient, dual_norm).clamp_min(MIN_SLOPE)
        distance_to_boundary = iterate.loss.abs() / slope
        reached = radius + torch.where(smallest_size.isinf(), distance_to_boundary, 0.0)
        grown = reached * (1 + change)  # a little farther, or the boundary is never crossed
        shrunk = smallest_size.minimum(radius * (1 - change))
        self.state["radius"] = torch.where(is_wrong, shrunk, grown)
        self.state["smallest_size"] = smallest_size


class CarliniWagner(StepRule):
    """Steps of Adam to small misclassified codes (Carlini and Wagner, S&P 2017, section V).

    They minimize the squared L2 norm of the perturbation, minus `CW_WEIGHT` times the loss where it
    is negative. Codes are the hyperbolic tangent of free numbers, scaled to the bounds of the
    space. As in the paper, there is one weight and no search for a weight of each example.
    """

    def __init__(self, template: Tensor) -> None:
        super().__init__()
        self.adam = AdamStep(template)
        self.state = self.adam.state
        self.state["offset"] = torch.zeros_like(template)

    def next_codes(
        self, space: Space, iterate: Iterate, threat: Threat, search: SearchConfig
    ) -> Tensor:
        """Return the codes after a step of Adam on the free numbers."""
        del threat, search
        lower, upper = space.bounds()
        centre, half_width = (upper + lower) / 2, (upper - lower) / 2
        is_correct = expand_trailing_dims(iterate.loss < 0, iterate.codes)
        descent = CW_WEIGHT * is_correct * iterate.gradient - 2 * (
            iterate.codes - space.clean_codes
        )
        slope = half_width * (1 - ((iterate.codes - centre) / half_width).square())
        step = self.adam(descent * slope)
        self.state["offset"] = self.state["offset"].add(step, alpha=CW_LEARNING_RATE)
        clean = ((space.clean_codes - centre) / half_width).clamp(-1, 1) * CW_CLEAN_SCALE
        return centre + half_width * (clean.atanh() + self.state["offset"]).tanh()


def _anneal(first_and_last: tuple[float, float], progress: float) -> float:
    """Return a setting that falls from its first to its last value as half a cosine.

    Args:
        first_and_last: the two values.
        progress: share of the steps that are done.
    """
    first, last = first_and_last
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def _keep_best(state: dict[str, Tensor], iterate: Iterate) -> None:
    """Replace the best values in `state`, named "best_loss" and so on, where the loss is higher."""
    is_best = iterate.loss > state["best_loss"]
    for name, values in iterate._asdict().items():
        if f"best_{name}" in state:
            mask = expand_trailing_dims(is_best, values)
            state[f"best_{name}"] = torch.where(mask, values, state[f"best_{name}"])


def _changed_share(progress: float) -> float:
    """Return the share of the pixels or coordinates that change, after a share of the steps."""
    halvings = sum(progress > limit for limit in SHARE_HALVINGS)
    return MAX_CHANGED_SHARE * 0.5**halvings


def _mask_segments(uniform: Tensor, side: int, length: int) -> Tensor:
    """Return which of `length` pixels a segment of `side` pixels at a random place covers.

    Args:
        uniform: `(M, B)` numbers in [0, 1), from which the places follow.
        side: length of the segment, at most `length`.
        length: number of pixels.

    Returns:
        `(M, B, length)` mask.
    """
    first = (uniform * (length - side + 1)).long()[..., None]
    pixels = torch.arange(length, device=uniform.device)
    return (pixels >= first) & (pixels < first + side)


def list_check_steps(steps: int) -> list[int]:
    """Return the numbers of steps after which `AutoStep` checks the examples, as published.

    Args:
        steps: number of steps of the search.
    """
    period = max(int(FIRST_PERIOD * steps), 1)
    shortest, decrease = max(int(MIN_PERIOD * steps), 1), max(int(PERIOD_DECREASE * steps), 1)
    check_steps = [period]
    while check_steps[-1] < steps:
        period = max(period - decrease, shortest)
        check_steps.append(check_steps[-1] + period)
    return check_steps


def _normalize(gradient: Tensor) -> Tensor:
    """Return gradients `(M, B, *D)` divided by their L2 norms; a zero gradient stays zero."""
    return F.normalize(gradient.flatten(2), dim=2, eps=1e-20).view_as(gradient)


STEP_RULES: dict[str, Callable[[Tensor], StepRule]] = {
    "adam": AdamStep,
    "signed": SignStep,
    "normalized": L2NormalizedStep,
    "auto": AutoStep,
    "random": RandomSearch,
    "fmn": FastMinimumNorm,
    "carlini_wagner": CarliniWagner,
}
"""Classes of step rules by name; each is called with a template of the codes `(M, B, *D)`."""


def make_step_rule(name: str, codes: Tensor) -> StepRule:
    """Return a new step rule `name` for codes `(M, B, *D)`.

    Raises:
        ValueError: there is no step rule of this name.
    """
    require_name("step_rule", name, STEP_RULES)
    return STEP_RULES[name](codes)
