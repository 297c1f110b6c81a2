"""The examples of a batch that a search still works on, and the best codes that it has met."""

from typing import NamedTuple

import torch
from torch import Tensor

from robustgen.attacks.losses import LossFn
from robustgen.attacks.spaces import (
    Space,
    gather_columns,
    perturbation_norm,
    scatter_columns_,
)
from robustgen.attacks.step_rules import Iterate, StepRule
from robustgen.sampling import expand_trailing_dims
from robustgen.specs import SearchConfig, Threat


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


class Restart(NamedTuple):
    """The examples of a batch before a restart of the search.

    Attributes:
        space: the space around the images of the B examples.
        labels: `(M, B)` true classes.
        targets: `(M, B)` classes that a targeted loss makes likely; other losses ignore them.
        unit_points: `(M, B, *D)` starts in the unit ball.
        is_active: `(M, B)` mask of the examples that are attacked.
        best: the best codes of earlier restarts, which the search improves in place.
    """

    space: Space
    labels: Tensor
    targets: Tensor
    unit_points: Tensor
    is_active: Tensor
    best: BestSoFar


def find_active_columns(is_active: Tensor) -> Tensor:
    """Return positions `(M, B')` of the active examples of each model, in their order.

    B' is the highest number of active examples of a model; others are filled up with inactive ones.
    """
    max_active = int(is_active.sum(1).max())
    return (~is_active).int().argsort(dim=1, stable=True)[:, :max_active]


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
            index = find_active_columns(self.is_active)
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
                scatter_columns_(batch_values, self.columns, values)
