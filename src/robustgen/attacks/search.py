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

from robustgen.attacks.losses import LossFn, get_loss, rank_targets, require_enough_classes
from robustgen.attacks.spaces import SPACES, Space, gather_columns, perturbation_norm
from robustgen.attacks.step_rules import Iterate, StepRule, make_step_rule
from robustgen.backend import PLAIN, Backend
from robustgen.sampling import expand_trailing_dims
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
    while group := list(islice(unused_starts, _count_joint_restarts(is_active, stop_at_success))):
        steps_done = restart * evals_per_restart
        rows = [(restart + i) % targets.shape[-1] for i in range(len(group))]
        if len(group) > 1:
            joint = _join_restarts(space, labels, targets[..., rows], group, is_active)
            active = _place_at_starts(*joint.examples, threat, search)
            run_ascent(model, active, threat, search, 0, stop_at_success)
            active.write_back()
            _merge_restarts(best, joint, is_active, steps_done, evals_per_restart)
        else:
            examples = (space, labels, targets[..., rows[0]], group[0], is_active, best)
            active = _place_at_starts(*examples, threat, search)
            if skip is None or active.drop_inactive():
                run_ascent(model, active, threat, search, steps_done, stop_at_success)
            active.write_back()
        if stop_at_success:
            is_active = is_active & ~best.success
        restart += len(group)
    not_found = best.step_found < 0
    iterations = torch.where(not_found, best.step_found, best.step_found % evals_per_restart)
    restarts = best.step_found // evals_per_restart
    return SearchResult(best.codes, best.loss, best.success, iterations, restarts)


def _count_joint_restarts(is_active: Tensor, stop_at_success: bool) -> int:
    """Return how many restarts of the active examples `(M, B)` fill a batch of B examples.

    A step for few examples takes almost as long as one for many, so that restarts of the last
    examples run together. Their results are those of restarts one after another.
    """
    if not stop_at_success:
        return 1
    max_active = int(is_active.sum(1).max())
    return max(1, is_active.shape[1] // max_active) if max_active else 1


class JointRestarts(NamedTuple):
    """Several restarts of the active examples as one batch, restart after restart.

    Attributes:
        columns: `(M, B')` positions of the examples in the batch of the search.
        examples: space, labels, targets, starts, mask and best codes of R restarts, each
            `(M, R B', ...)`.
    """

    columns: Tensor
    examples: tuple[Space, Tensor, Tensor, Tensor, Tensor, "BestSoFar"]


def _join_restarts(
    space: Space,
    labels: Tensor,
    targets: Tensor,
    unit_points: Sequence[Tensor],
    is_active: Tensor,
) -> JointRestarts:
    """Join R restarts of the active examples.

    Args:
        space: the space around the images of the batch.
        labels: `(M, B)` true classes.
        targets: `(M, B, R)` classes that a targeted loss makes likely in each restart.
        unit_points: for each restart, points `(M, B, *D)` of the unit ball.
        is_active: `(M, B)` mask of the examples that are attacked.
    """
    columns = _find_active_columns(is_active)
    repeated = columns.repeat(1, len(unit_points))
    joint_space, joint_labels = space.select(repeated), gather_columns(labels, repeated)
    examples = (
        joint_space,
        joint_labels,
        torch.cat([gather_columns(t, columns) for t in targets.unbind(-1)], 1),
        torch.cat([gather_columns(points, columns) for points in unit_points], 1),
        gather_columns(is_active, repeated),
        make_initial_best(joint_space, joint_labels),
    )
    return JointRestarts(columns, examples)


def _merge_restarts(
    best: "BestSoFar",
    joint: JointRestarts,
    is_active: Tensor,
    steps_done: int,
    evals_per_restart: int,
) -> None:
    """Copy the best codes of joint restarts to `best` where they improve on it.

    The first restart with a success counts, or without a success the one with the highest loss.

    Args:
        best: the best codes of the batch.
        joint: the restarts, after their search.
        is_active: `(M, B)` mask of the examples that were attacked.
        steps_done: evaluations of the model in earlier restarts.
        evals_per_restart: evaluations of the model in one restart.
    """
    columns, joint_best = joint.columns, joint.examples[-1]
    members, count = len(columns), columns.shape[1]
    scores = torch.where(joint_best.success, torch.inf, joint_best.loss)
    first_best = scores.view(members, -1, count).argmax(1)
    positions = first_best * count + torch.arange(count, device=columns.device)
    found = BestSoFar(*(gather_columns(values, positions) for values in joint_best))
    steps = found.step_found + steps_done + first_best * evals_per_restart
    found = found._replace(step_found=torch.where(found.success, steps, -1))
    old = BestSoFar(*(gather_columns(values, columns) for values in best))
    improves = gather_columns(is_active, columns) & (found.success | (found.loss > old.loss))
    rows = torch.arange(members, device=columns.device)[:, None]
    for batch_values, new_values, old_values in zip(best, found, old, strict=True):
        is_new = expand_trailing_dims(improves, new_values)
        batch_values[rows, columns] = torch.where(is_new, new_values, old_values)


def _place_at_starts(
    space: Space,
    labels: Tensor,
    targets: Tensor,
    unit_points: Tensor,
    is_active: Tensor,
    best: "BestSoFar",
    threat: Threat,
    search: SearchConfig,
) -> "ActiveExamples":
    """Return the examples of a restart at their starts, or at the clean codes for some rules."""
    is_minimal = search.step_rule in MINIMAL_STEP_RULES
    codes = space.clean_codes if is_minimal else space.scale_starts(threat, unit_points)
    rule, loss_fn = make_step_rule(search.step_rule, codes), get_loss(search.loss)
    minimized_threat = threat if is_minimal else None
    return ActiveExamples(
        space, labels, codes, rule, loss_fn, is_active, best, targets, minimized_threat
    )


def _find_active_columns(is_active: Tensor) -> Tensor:
    """Return positions `(M, B')` of the active examples of each model, in their order.

    B' is the highest number of active examples of a model; others are filled up with inactive ones.
    """
    max_active = int(is_active.sum(1).max())
    return (~is_active).int().argsort(dim=1, stable=True)[:, :max_active]


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
    active: "ActiveExamples",
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


class BestSoFar(NamedTuple):
    """The best codes that a search has met so far.

    Attributes:
        codes, loss, success: as in `SearchResult`.
        step_found: `(M, B)` number of evaluations before the success, counted over all restarts;
            -1 without success.
    """

    codes: Tensor
    loss: Tensor
    success: Tensor
    step_found: Tensor


def make_initial_best(space: Space, labels: Tensor) -> BestSoFar:
    """Return the best codes before the first evaluation: the clean codes, with a loss of -inf."""
    return BestSoFar(
        codes=space.clean_codes.clone(memory_format=torch.contiguous_format),
        loss=space.clean_codes.new_full(labels.shape, -torch.inf),
        success=torch.zeros_like(labels, dtype=torch.bool),
        step_found=torch.full_like(labels, -1),
    )


class ActiveExamples:
    """The examples of a batch that the search still works on.

    Models may have different numbers of active examples. All rows have the length of the longest
    one; shorter rows are padded with inactive examples. The best codes of these examples are
    buffered in `local_best` and written to `batch_best` when examples are dropped.

    Attributes:
        space: the space around the images of the B' examples.
        labels: `(M, B')` true classes.
        targets: `(M, B')` classes that a targeted loss makes likely; other losses ignore them.
        codes: `(M, B', *D)` current codes.
        loss: `(M, B')` losses of the codes of the last call of `update_best`.
        rule: the step rule, with its state for these examples.
        loss_fn: the loss that the search increases.
        is_active: `(M, B')`; False for padding and for examples whose search has ended.
        batch_best: the best codes of the whole batch.
        local_best: the best codes of these examples.
        columns: `(M, B')` positions of the examples in the batch; None for the whole batch.
        minimized_threat: the threat whose norm a search for the smallest perturbation minimizes;
            None for other searches.
    """

    def __init__(
        self,
        space: Space,
        labels: Tensor,
        codes: Tensor,
        rule: StepRule,
        loss_fn: LossFn,
        is_active: Tensor,
        best: BestSoFar,
        targets: Tensor | None = None,
        minimized_threat: Threat | None = None,
    ) -> None:
        self.minimized_threat = minimized_threat
        self.space, self.rule, self.loss_fn = space, rule, loss_fn
        self.targets = labels if targets is None else targets
        self.loss = best.loss
        self.labels, self.codes = labels.contiguous(), codes.contiguous()
        self.is_active, self.batch_best, self.local_best = is_active.clone(), best, best
        self.columns: Tensor | None = None

    def drop_inactive(self) -> bool:
        """Drop inactive examples, as many as the model with the most active examples allows.

        Returns:
            Whether any example is active.
        """
        max_active = int(self.is_active.sum(1).max())
        if 0 < max_active < self.is_active.shape[1]:
            self.write_back()
            index = _find_active_columns(self.is_active)
            self.columns = index if self.columns is None else gather_columns(self.columns, index)
            self.is_active = gather_columns(self.is_active, index)
            self.labels, self.targets = (
                gather_columns(values, index) for values in (self.labels, self.targets)
            )
            self.codes = gather_columns(self.codes, index)
            self.local_best = BestSoFar(*(gather_columns(best, index) for best in self.local_best))
            for name, tensor in self.rule.state.items():
                self.rule.state[name] = gather_columns(tensor, index)
            self.space = self.space.select(index)
        return max_active > 0

    def update_best(self, logits: Tensor, steps_done: int, stop_at_success: bool) -> Tensor:
        """Record the current codes where they improve on the best so far.

        The higher loss is the better one. With `stop_at_success`, a success is better than any
        code without success, whatever its loss.

        Args:
            logits: `(M, B', K)` of the current codes.
            steps_done: number of evaluations before this one, over all restarts.
            stop_at_success: whether a success ends the search for an example.

        Returns:
            `(M, B', K)` gradients of the losses with respect to the logits.
        """
        loss, grad_logits = self.loss_fn(logits, self.labels, self.targets)
        self.loss = loss
        success = logits.argmax(-1) != self.labels
        improves = loss > self.local_best.loss
        if self.minimized_threat is not None:
            improves, success = self._find_smaller(self.minimized_threat, improves, success)
        elif stop_at_success:
            improves |= success
        improves &= self.is_active
        current = BestSoFar(self.codes, loss, success, success * (steps_done + 1) - 1)
        self.local_best = BestSoFar(
            *(
                torch.where(expand_trailing_dims(improves, new), new, old)
                for new, old in zip(current, self.local_best, strict=True)
            )
        )
        if stop_at_success:
            self.is_active &= ~success
        return grad_logits

    def _find_smaller(
        self, threat: Threat, is_higher: Tensor, is_wrong: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return which codes improve on the best ones by a smaller perturbation, and successes.

        Codes outside of the threat are no successes and never improve.

        Args:
            threat: the ball, and the norm of perturbations.
            is_higher: `(M, B')` whether the loss is the highest one so far.
            is_wrong: `(M, B')` whether the model misclassifies the codes.
        """
        clean_codes, best = self.space.clean_codes, self.local_best
        size, best_size = (
            perturbation_norm(codes - clean_codes, threat.norm)
            for codes in (self.codes, best.codes)
        )
        is_inside = size <= threat.radius
        success = is_wrong & is_inside
        is_smaller = ~best.success | (size < best_size)
        return torch.where(success, is_smaller, is_inside & is_higher & ~best.success), success

    def step(self, gradient: Tensor, threat: Threat, search: SearchConfig) -> None:
        """Replace the codes by the next ones of the step rule.

        Args:
            gradient: `(M, B', *D)` gradients of the losses with respect to the codes.
            threat: the ball to search.
            search: step size and number of steps.
        """
        iterate = Iterate(self.codes, self.loss, gradient)
        self.codes = self.rule.next_codes(self.space, iterate, threat, search)

    def write_back(self) -> None:
        """Copy the best codes of these examples to the best codes of the batch."""
        if self.local_best is self.batch_best:
            return
        for batch_values, values in zip(self.batch_best, self.local_best, strict=True):
            if self.columns is None:
                batch_values.copy_(values)
            else:
                members = torch.arange(len(values), device=values.device)[:, None]
                batch_values[members, self.columns] = values
