"""The check of an accelerated search on a GPU before a job believes it."""

from dataclasses import replace
from typing import Any

import torch

from robustgen.acceleration.verification import (
    CHECKED_IMAGES,
    Verifier,
    share_of_equal_values,
)
from robustgen.attacks.search import ActiveExamples, make_initial_best
from robustgen.attacks.search import ascend as plain_ascend
from robustgen.attacks.spaces import gather_columns
from robustgen.backend import Ascend
from robustgen.specs import SearchConfig, Threat

CHECKED_STEPS = 2
"""Steps that are compared; after many steps, rounding alone makes codes differ."""


def verify_ascend(verifier: Verifier, ascend: Ascend) -> Ascend:
    """The `ascend` of a backend, whose first steps are verified for each kind of search."""

    def verified(
        model: Any,
        active: ActiveExamples,
        threat: Threat,
        search: SearchConfig,
        steps_done: int,
        stop_at_success: bool,
    ) -> None:
        """As `attacks.search.ascend`."""

        def compare() -> float:
            """The share of equal values after a few steps, from copies of the examples."""
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

    return verified


def _copy_first(active: ActiveExamples) -> ActiveExamples:
    """A copy of the first examples at their starts, with a step rule and best codes of its own."""
    members, examples = active.labels.shape
    columns = torch.arange(min(examples, CHECKED_IMAGES), device=active.labels.device)
    columns = columns.expand(members, -1)
    space = active.space.select(columns)
    labels, codes, is_active = (
        gather_columns(values, columns)
        for values in (active.labels, active.codes, active.is_active)
    )
    rule = type(active.rule)(codes)  # type: ignore[call-arg]
    best = make_initial_best(space, labels)
    return ActiveExamples(space, labels, codes, rule, is_active, best)
