"""The check of an accelerated search on a GPU before a job uses it."""

from dataclasses import replace
from typing import Any

import torch

from robustgen.acceleration.verification import (
    CHECKED_IMAGES,
    Verifier,
    share_of_equal_values,
)
from robustgen.attacks.active_examples import ActiveExamples, make_initial_best
from robustgen.attacks.search import ascend as plain_ascend
from robustgen.attacks.spaces import gather_columns
from robustgen.backend import Ascend
from robustgen.specs import SearchConfig, Threat

CHECKED_STEPS = 2
"""Steps that are compared. Over many steps, rounding alone makes codes differ."""


def verify_ascend(verifier: Verifier, ascend: Ascend) -> Ascend:
    """Wrap the `ascend` of a backend, so that the first steps of a search are verified."""

    def verified_ascend(
        model: Any,
        active: ActiveExamples,
        threat: Threat,
        search: SearchConfig,
        steps_done: int,
        stop_at_success: bool,
    ) -> None:
        """Run one restart as `attacks.search.ascend` does.

        The first call for each space, norm, step rule and stop mode compares the accelerated with
        the plain search on copies of the examples. If they differ, all such calls are plain.
        """

        def compare() -> float:
            """Return the share of equal values after a few steps, with copies of the examples."""
            short = replace(search, steps=min(search.steps, CHECKED_STEPS))
            results = []
            for function in (ascend, plain_ascend):
                examples = _copy_first(active)
                function(model, examples, threat, short, steps_done, stop_at_success)
                examples.write_back()
                best = examples.batch_best
                results.append([best.codes, best.loss, best.success, best.step_found])
            return share_of_equal_values(*results)

        kind = "until success" if stop_at_success else "over all steps"
        name = f"the accelerated search {kind} in {threat.space}, {threat.norm}, {search.step_rule}"
        trusted_ascend = ascend if verifier.trusts(name, compare) else plain_ascend
        trusted_ascend(model, active, threat, search, steps_done, stop_at_success)

    return verified_ascend


def _copy_first(active: ActiveExamples) -> ActiveExamples:
    """Copy the first examples at their starts, with a step rule and best codes of their own."""
    members, examples = active.labels.shape
    columns = torch.arange(min(examples, CHECKED_IMAGES), device=active.labels.device)
    columns = columns.expand(members, -1)
    space = active.space.select(columns)
    labels, targets, codes, is_active = (
        gather_columns(values, columns)
        for values in (active.labels, active.targets, active.codes, active.is_active)
    )
    rule = type(active.rule)(codes)  # type: ignore[call-arg]
    best = make_initial_best(space, labels)
    return ActiveExamples(
        space,
        labels,
        codes,
        rule,
        active.loss_fn,
        is_active,
        best,
        targets,
        active.minimized_threat,
    )
