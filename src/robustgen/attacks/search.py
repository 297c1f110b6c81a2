"""The one search: the highest loss inside a threat, for a whole cohort at once.

Every attack and every adversarial training method is this search in some space. It knows spaces
and a function from images to logits, and nothing else.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustgen.acceleration.cuda import whole_search as climbing
from robustgen.attacks.active_examples import Front, nothing
from robustgen.attacks.spaces import Space, Threat, draw
from robustgen.attacks.step_rules import STEP_RULES

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
    best = nothing(space, labels)
    period = settings.steps + 1
    alive = torch.ones_like(labels, dtype=torch.bool) if skip is None else ~skip
    for restart, noise in enumerate(drawn):  # drawn even if no one is left: see `search`
        start = space.start(threat, noise)
        rule = STEP_RULES[settings.step_rule](start)
        front = Front(space, labels, start, rule, alive, best)
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
    front: Front,
    threat: Threat,
    settings: Search,
    before: int,
    stop_at_success: bool,
) -> None:
    """Search from one start, after so many steps from others, and record what is found."""
    chain = climbing.chain_of(model, front, threat) if stop_at_success else None
    how = settings.steps, settings.step_size, before
    if chain and climbing.climb(chain, front, threat, *how):
        return
    for step in range(settings.steps + 1):
        if stop_at_success and not front.narrow():
            return
        last = step == settings.steps
        codes = front.codes.detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            logits = model(front.space.decode(codes))
        uphill = front.look(logits.detach(), before + step, stop_at_success)
        if not last:
            (gradient,) = torch.autograd.grad(logits, codes, uphill)
            front.move(gradient, threat, settings.step_size)
