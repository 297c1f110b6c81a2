"""Several restarts of a search at once, for the last examples of a batch.

A step for few examples takes almost as long as one for many. The results are those of restarts one
after another.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from robustgen.attacks.active_examples import (
    BestSoFar,
    Restart,
    find_active_columns,
    make_initial_best,
)
from robustgen.attacks.spaces import Space, gather_columns, scatter_columns_
from robustgen.sampling import expand_trailing_dims


def count_joint_restarts(is_active: Tensor, stop_at_success: bool) -> int:
    """Return how many restarts of the active examples `(M, B)` fill a batch of B examples.

    It is 1 if no example is active, or if the search does not stop at successes, as in training.
    """
    if not stop_at_success:
        return 1
    max_active = int(is_active.sum(1).max())
    return max(1, is_active.shape[1] // max_active) if max_active else 1


def join_restarts(
    space: Space,
    labels: Tensor,
    targets: Tensor,
    unit_points: Sequence[Tensor],
    is_active: Tensor,
) -> tuple[Restart, Tensor]:
    """Join R restarts of the B' active examples into one restart of R B' examples.

    Args:
        space: the space around the images of the batch.
        labels: `(M, B)` true classes.
        targets: `(M, B, R)` classes that a targeted loss makes likely in each restart.
        unit_points: for each restart, points `(M, B, *D)` of the unit ball.
        is_active: `(M, B)` mask of the examples that are attacked.

    Returns:
        The joint restart, whose examples are those of the first restart, then those of the next
        ones, and the positions `(M, B')` of the examples in the batch.
    """
    columns = find_active_columns(is_active)
    repeated = columns.repeat(1, len(unit_points))
    joint_space, joint_labels = space.select(repeated), gather_columns(labels, repeated)
    joint = Restart(
        space=joint_space,
        labels=joint_labels,
        targets=torch.cat([gather_columns(classes, columns) for classes in targets.unbind(-1)], 1),
        unit_points=torch.cat([gather_columns(points, columns) for points in unit_points], 1),
        is_active=gather_columns(is_active, repeated),
        best=make_initial_best(joint_space, joint_labels),
    )
    return joint, columns


def merge_restarts(
    best: BestSoFar,
    joint_best: BestSoFar,
    columns: Tensor,
    is_active: Tensor,
    steps_done: int,
    evals_per_restart: int,
) -> None:
    """Copy the best codes of joint restarts to `best` where they improve on it.

    The first restart with a success counts, or without a success the one with the highest loss.

    Args:
        best: the best codes `(M, B, *D)` of the batch.
        joint_best: the best codes `(M, R B', *D)` of the joint restarts.
        columns: `(M, B')` positions of the examples in the batch.
        is_active: `(M, B)` mask of the examples that were attacked.
        steps_done: evaluations of the model in earlier restarts.
        evals_per_restart: evaluations of the model in one restart.
    """
    members, count = columns.shape
    scores = torch.where(joint_best.success, torch.inf, joint_best.loss)
    first_best = scores.view(members, -1, count).argmax(1)
    positions = first_best * count + torch.arange(count, device=columns.device)
    group_best = BestSoFar(*(gather_columns(values, positions) for values in joint_best))
    steps = group_best.step_found + steps_done + first_best * evals_per_restart
    group_best = group_best._replace(step_found=torch.where(group_best.success, steps, -1))
    old = BestSoFar(*(gather_columns(values, columns) for values in best))
    is_better = group_best.success | (group_best.loss > old.loss)
    improves = is_better & gather_columns(is_active, columns)
    for batch_values, new_values, old_values in zip(best, group_best, old, strict=True):
        is_new = expand_trailing_dims(improves, new_values)
        scatter_columns_(batch_values, columns, torch.where(is_new, new_values, old_values))
