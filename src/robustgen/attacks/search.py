"""The search for the highest loss within a threat, for all models and images of a batch together.

Every attack and every adversarial training method runs this search in one of the spaces. The search
needs only a space and a function from images to logits: it reads no file and no configuration.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from robustgen.attacks.active_examples import (
    ActiveExamples,
    BestSoFar,
    Restart,
    make_initial_best,
)
from robustgen.attacks.joint_restarts import (
    count_joint_restarts,
    join_restarts,
    merge_restarts,
)
from robustgen.attacks.losses import get_loss, rank_targets, require_enough_classes
from robustgen.attacks.spaces import SPACES, Space
from robustgen.attacks.step_rules import make_step_rule
from robustgen.backend import PLAIN, Backend
from robustgen.specs import (
    MINIMAL_STEP_RULES,
    TARGETED_LOSSES,
    SearchConfig,
    Threat,
    require_instance,
    require_name,
    require_search_fits,
)
from robustgen.tensor_checks import (
    PROBE_IMAGES,
    compute_logits,
    require_classes,
    require_codes_within,
    require_eval_mode,
    require_generators,
    require_labels,
)

Model = Callable[[Tensor], Tensor]


class SearchResult(NamedTuple):
    """The result of a search for each of M models and B images.

    Attributes:
        codes: `(M, B, *D)` codes of the first success, if the search stops at successes and there
            is one; otherwise of the highest loss. With one of the `MINIMAL_STEP_RULES`, codes of
            the success with the smallest perturbation, or without success of the highest loss.
        loss: `(M, B)` loss of the search at these codes.
        success: `(M, B)` whether the model misclassifies the images of these codes.
        iterations: `(M, B)` steps from the start to these codes, -1 without success.
        restart: `(M, B)` index of the restart of these codes, -1 without success.
    """

    codes: Tensor
    loss: Tensor
    success: Tensor
    iterations: Tensor
    restart: Tensor


def run_search(
    model: Model,
    space: Space,
    labels: Tensor,
    threat: Threat,
    search: SearchConfig,
    generators: Sequence[torch.Generator],
    *,
    stop_at_success: bool,
    skip: Tensor | None = None,
    backend: Backend = PLAIN,
) -> SearchResult:
    """Search for codes in `threat` that the model misclassifies, from random starts.

    Args:
        model: images `(M, B, C, H, W)` to logits `(M, B, K)`; in eval mode if it has modes.
        space: the space around the images of the batch.
        labels: `(M, B)` true classes.
        threat: the ball to search.
        search: loss, step rule, step size, steps and restarts.
        generators: M CPU generators. Every model draws the starts of all B images for every
            restart, so that its draws depend neither on other models nor on successes.
        stop_at_success: True ends the search for an example at its first success (evaluation).
            False runs all steps and returns the codes of the highest loss (training). A search for
            the smallest perturbation without a radius runs all steps in either case.
        skip: `(M, B)` mask of examples that are not attacked; their codes are the clean ones.
        backend: draws the starts; its `ascend`, unless None, replaces `ascend` of this module.

    Raises:
        ValueError: an argument is not as described; the message names it.

    Examples:
        >>> import robustgen, torch
        >>> study = robustgen.open_study("results/smoke")
        >>> cohort = study.cohort("fonts", "normal", n=60)
        >>> images = study.split("fonts").select(slice(8)).expand(len(cohort.seeds))
        >>> space = robustgen.make_space("true_manifold", images)
        >>> threat = robustgen.Threat("true_manifold", "l2", 0.5)
        >>> generators = [torch.Generator().manual_seed(seed) for seed in cohort.seeds]
        >>> result = robustgen.run_search(
        ...     cohort, space, images.labels, threat, robustgen.SearchConfig(steps=5), generators,
        ...     stop_at_success=True,
        ... )
        >>> result.success.shape, result.codes.shape
        (torch.Size([2, 8]), torch.Size([2, 8, 6]))
    """
    _check_arguments(model, space, labels, threat, search, generators, skip)
    codes = space.clean_codes
    starts = backend.sample_starts(
        threat.norm,
        [codes.shape[1]],
        codes.shape[2:],
        search.restarts,
        generators,
        codes.device,
    )
    return run_search_from_starts(
        model,
        space,
        labels,
        threat,
        search,
        starts,
        stop_at_success=stop_at_success,
        skip=skip,
        backend=backend,
    )


def run_search_from_starts(
    model: Model,
    space: Space,
    labels: Tensor,
    threat: Threat,
    search: SearchConfig,
    starts: Iterable[Tensor],
    *,
    stop_at_success: bool,
    skip: Tensor | None = None,
    backend: Backend = PLAIN,
) -> SearchResult:
    """Search as `run_search` does, from given starts.

    The search does not synchronize with the GPU if `skip` is None and `stop_at_success` is False.

    Args:
        model, space, labels, threat, search: as for `run_search`.
        starts: for each restart, points `(M, B, *D)` of the unit ball.
        stop_at_success, skip, backend: as for `run_search`.
    """
    require_eval_mode("model", model)
    stop_at_success = stop_at_success and math.isfinite(threat.radius)
    best = make_initial_best(space, labels)
    targets = labels[..., None]
    if search.loss in TARGETED_LOSSES:
        targets = _rank_targets(model, space, labels)
    is_active = torch.ones_like(labels, dtype=torch.bool) if skip is None else ~skip
    run_ascent = backend.ascend or ascend
    evals_per_restart, restart, unused_starts = search.steps + 1, 0, iter(starts)
    # The starts of every restart are drawn, even if no example is active, so that the state of the
    # generators after the search does not depend on successes.
    while group := list(islice(unused_starts, count_joint_restarts(is_active, stop_at_success))):
        steps_done = restart * evals_per_restart
        rows = [(restart + i) % targets.shape[-1] for i in range(len(group))]
        if len(group) > 1:
            joint, columns = join_restarts(space, labels, targets[..., rows], group, is_active)
            active = _begin_restart(joint, threat, search)
            run_ascent(model, active, threat, search, 0, stop_at_success)
            active.write_back()
            merge_restarts(best, joint.best, columns, is_active, steps_done, evals_per_restart)
        else:
            single = Restart(space, labels, targets[..., rows[0]], group[0], is_active, best)
            active = _begin_restart(single, threat, search)
            if skip is None or active.drop_inactive():
                run_ascent(model, active, threat, search, steps_done, stop_at_success)
            active.write_back()
        if stop_at_success:
            is_active = is_active & ~best.success
        restart += len(group)
    return _to_result(best, evals_per_restart)


def _begin_restart(restart: Restart, threat: Threat, search: SearchConfig) -> ActiveExamples:
    """Return the examples at their starts, or at clean codes for `MINIMAL_STEP_RULES`."""
    space, is_minimal = restart.space, search.step_rule in MINIMAL_STEP_RULES
    codes = space.clean_codes if is_minimal else space.scale_starts(threat, restart.unit_points)
    return ActiveExamples(
        space,
        restart.labels,
        codes,
        make_step_rule(search.step_rule, codes),
        get_loss(search.loss),
        restart.is_active,
        restart.best,
        restart.targets,
        minimized_threat=threat if is_minimal else None,
    )


def _to_result(best: BestSoFar, evals_per_restart: int) -> SearchResult:
    """Return the best codes, each with its restart and its number of steps in this restart."""
    not_found = best.step_found < 0
    iterations = torch.where(not_found, best.step_found, best.step_found % evals_per_restart)
    restarts = best.step_found // evals_per_restart
    return SearchResult(best.codes, best.loss, best.success, iterations, restarts)


def _rank_targets(model: Model, space: Space, labels: Tensor) -> Tensor:
    """Rank the other classes `(M, B, K - 1)` of the clean codes, the most likely one first.

    Raises:
        ValueError: there are only two classes.
    """
    with torch.no_grad():
        logits = model(space.decode(space.clean_codes))
    require_enough_classes(TARGETED_LOSSES[0], logits.shape[-1])
    return rank_targets(logits, labels)


def _check_arguments(
    model: Model,
    space: Space,
    labels: Tensor,
    threat: Threat,
    search: SearchConfig,
    generators: Sequence[torch.Generator],
    skip: Tensor | None,
) -> None:
    """Raise a `ValueError` for a wrong argument of `run_search`."""
    require_instance("space", space, Space)
    require_instance("threat", threat, Threat)
    require_instance("search", search, SearchConfig)
    require_search_fits(threat, search)
    require_name("threat.space", threat.space, SPACES)
    if (threat.space == "image") == space.is_latent:
        kind = type(space).__name__
        raise ValueError(f"threat.space is {threat.space!r}, but space is of type {kind}")
    require_codes_within("the clean codes of space", space.clean_codes, space.lower, space.upper)
    require_eval_mode("model", model)
    codes = space.clean_codes
    shape = codes.shape[:2]
    require_labels("labels", labels, shape, codes.device)
    require_generators("generators", generators, len(codes))
    is_mask = isinstance(skip, Tensor) and skip.shape == shape and skip.dtype == torch.bool
    if skip is not None and not is_mask:
        raise ValueError(f"skip must be a tensor {tuple(shape)} of type torch.bool")
    if labels.numel():
        count = min(PROBE_IMAGES, codes.shape[1])
        probe = space.select(torch.arange(count, device=codes.device).expand(len(codes), -1))
        with torch.no_grad():
            images = probe.decode(probe.clean_codes)
            logits = compute_logits("model", model, images, (len(codes), count))
        require_classes("labels", labels, logits.shape[-1])


def ascend(
    model: Model,
    active: ActiveExamples,
    threat: Threat,
    search: SearchConfig,
    steps_done: int,
    stop_at_success: bool,
) -> None:
    """Run one restart of the search and record the best codes in `active`.

    Args:
        model: images `(M, B', C, H, W)` to logits `(M, B', K)`.
        active: the examples, whose codes are their starts.
        threat: the ball to search.
        search: loss, step rule, step size and steps.
        steps_done: number of evaluations of the model in earlier restarts.
        stop_at_success: whether the search for an example ends at its first success.
    """
    for step in range(search.steps + 1):
        if stop_at_success and not active.drop_inactive():
            return
        is_last = step == search.steps
        needs_gradient = active.rule.needs_gradient and not is_last
        codes = active.codes.detach().requires_grad_(needs_gradient)
        with torch.set_grad_enabled(needs_gradient):
            logits = model(active.space.decode(codes))
        grad_logits = active.update_best(logits.detach(), steps_done + step, stop_at_success)
        if needs_gradient:
            (gradient,) = torch.autograd.grad(logits, codes, grad_logits)
            active.step(gradient, threat, search)
        elif not is_last:
            active.step(torch.zeros_like(codes), threat, search)
