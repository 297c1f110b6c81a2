"""The one search: the highest loss inside a threat, for a whole cohort at once.

Every attack and every adversarial training method is this search in some space. It knows spaces
and a function from images to logits, and nothing else.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustgen.spaces import Space, Threat, draw, gather, spread

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Search:
    """How to search.

    Attributes:
        step_rule: a key of `STEP_RULES`.
        step_size: length of a step, in coordinates of the space.
        steps: iterations; 0 leaves the random start.
        restarts: random starts.
    """

    step_rule: str
    step_size: float
    steps: int
    restarts: int = 1


class Found(NamedTuple):
    """What a search found, for each of M models and B images.

    Attributes:
        codes: `(M, B, *D)` best codes: of the first success, else of the highest loss.
        loss: `(M, B)` cross-entropy there, nat.
        success: `(M, B)` whether the model is wrong there.
        iterations: `(M, B)` iterations to success, -1 without one.
        restart: `(M, B)` restart of the success, -1 without one.
    """

    codes: Tensor
    loss: Tensor
    success: Tensor
    iterations: Tensor
    restart: Tensor


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
        self.taken += 1
        mean = self.state["mean"].lerp_(gradient, 1 - 0.9)
        square = self.state["square"].mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        root = square.div(1 - 0.999**self.taken).sqrt_().add_(1e-8)
        return mean.div(1 - 0.9**self.taken).div_(root)


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


def search(
    model: Model,
    space: Space,
    labels: Tensor,
    threat: Threat,
    settings: Search,
    generators: Sequence[torch.Generator],
    *,
    stop_at_success: bool,
    skip: Tensor | None = None,
) -> Found:
    """Search for codes in `threat` that the model gets wrong.

    Args:
        model: images `(M, B, C, H, W)` to logits `(M, B, K)`; in eval mode if it has modes.
        space: around the images of the batch.
        labels: `(M, B)` true classes.
        threat: the ball to search.
        settings: how to search it.
        generators: one per member; all of B is drawn for every restart, so that what a member
            draws depends neither on the others nor on who has succeeded.
        stop_at_success: True drops an example at its first success (evaluation); False runs all
            iterations and keeps the highest loss (training).
        skip: `(M, B)` examples not to attack; their code stays the origin.

    Raises:
        ValueError: the model is in train mode, where batch normalization would mix examples.
    """
    drawn = (
        draw(threat.norm, space.origin.shape[1:], generators).to(space.origin)
        for _ in range(settings.restarts)
    )
    return search_from(
        model, space, labels, threat, settings, drawn, stop_at_success=stop_at_success, skip=skip
    )


def search_from(
    model: Model,
    space: Space,
    labels: Tensor,
    threat: Threat,
    settings: Search,
    drawn: Iterable[Tensor],
    *,
    stop_at_success: bool,
    skip: Tensor | None = None,
) -> Found:
    """As `search`, from starts that were drawn: for each restart `(M, B, *D)` of `spaces.draw`.

    With all iterations and none to skip it never waits for a GPU.
    """
    if isinstance(model, nn.Module) and model.training:
        raise ValueError("the model is in train mode; call eval() before an attack")
    best = _nothing(space, labels)
    period = settings.steps + 1
    alive = torch.ones_like(labels, dtype=torch.bool) if skip is None else ~skip
    for restart, noise in enumerate(drawn):  # drawn even if no one is left: see `search`
        start = space.start(threat, noise)
        rule = STEP_RULES[settings.step_rule](start)
        front = _Front(space, labels, start, rule, alive, best)
        if skip is None or front.narrow():
            _climb(model, front, threat, settings, restart * period, stop_at_success)
        front.leave()
        if stop_at_success:
            alive = alive & ~best.success
    never = best.when < 0
    iterations = torch.where(never, best.when, best.when % period)
    return Found(best.codes, best.loss, best.success, iterations, best.when // period)


def _climb(
    model: Model,
    front: "_Front",
    threat: Threat,
    settings: Search,
    before: int,
    stop_at_success: bool,
) -> None:
    """Search from one start, after so many steps from others, and record what is found."""
    for step in range(settings.steps + 1):
        if stop_at_success and not front.narrow():
            return
        last = step == settings.steps
        codes = front.codes.detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            logits = model(front.space.decode(codes))
            loss = F.cross_entropy(
                logits.flatten(0, 1), front.labels.flatten(), reduction="none"
            ).view_as(front.labels)
        wrong = logits.argmax(-1) != front.labels
        front.record(loss.detach(), wrong, before + step, stop_at_success)
        if not last:
            (gradient,) = torch.autograd.grad(loss, codes, torch.ones_like(loss))
            moved = front.codes.add(front.rule(gradient), alpha=settings.step_size)
            front.codes = front.space.project(moved, threat)
        if stop_at_success:
            front.alive &= ~wrong


class _Front:
    """The examples still searched: columns `index` `(M, B')` of the batch, or all of them.

    Members may have unequal numbers of them left; `alive` is False for what fills the rows up.
    What is found is kept here, and goes to the batch with the examples that leave.
    """

    def __init__(
        self,
        space: Space,
        labels: Tensor,
        codes: Tensor,
        rule: StepRule,
        alive: Tensor,
        best: "_Kept",
    ) -> None:
        self.space, self.labels, self.codes, self.rule = space, labels, codes, rule
        self.alive, self.best, self.found = alive.clone(), best, best
        self.index: Tensor | None = None  # all, as they come

    def narrow(self) -> bool:
        """Let examples that are not alive leave, as far as all members can spare them.

        Returns:
            Whether any are left.
        """
        width = int(self.alive.sum(1).max())
        if 0 < width < self.alive.shape[1]:
            self.leave()
            kept = (~self.alive).int().argsort(dim=1, stable=True)[:, :width]
            self.index = kept if self.index is None else gather(self.index, kept)
            self.alive = gather(self.alive, kept)
            self.labels, self.codes = gather(self.labels, kept), gather(self.codes, kept)
            self.found = _Kept(*(gather(held, kept) for held in self.found))
            self.rule.state = {name: gather(held, kept) for name, held in self.rule.state.items()}
            self.space = self.space.take(kept)
        return width > 0

    def record(self, loss: Tensor, wrong: Tensor, when: int, stop_at_success: bool) -> None:
        """Keep the codes where they beat the best: a first success, else a higher loss."""
        better = loss > self.found.loss
        if stop_at_success:
            better |= wrong
        better &= self.alive
        now = _Kept(self.codes, loss, wrong, wrong * (when + 1) - 1)
        self.found = _Kept(
            *(
                torch.where(spread(better, new), new, held)
                for new, held in zip(now, self.found, strict=True)
            )
        )

    def leave(self) -> None:
        """Write what was found where the batch keeps it."""
        if self.found is self.best:
            return
        for batch, found in zip(self.best, self.found, strict=True):
            if self.index is None:
                batch.copy_(found)
            else:
                member = torch.arange(len(found), device=found.device)[:, None]
                batch[member, self.index] = found


class _Kept(NamedTuple):
    """What was found so far, as in `Found`; `when` counts the steps of all restarts, or is -1."""

    codes: Tensor
    loss: Tensor
    success: Tensor
    when: Tensor


def _nothing(space: Space, labels: Tensor) -> _Kept:
    return _Kept(
        codes=space.origin.clone(),
        loss=space.origin.new_full(labels.shape, -torch.inf),
        success=torch.zeros_like(labels, dtype=torch.bool),
        when=torch.full_like(labels, -1),
    )
