"""Whether the radius of a threat fits its space, and whether a search reaches the whole ball.

The widths of a space are known for the spaces of the library only. In another space, every radius
and every search is accepted.
"""

import math

from robustgen.config.blocks import Attack, Method
from robustgen.config.messages import join_words
from robustgen.config.study_blocks import StudyBlocks
from robustgen.errors import UserError
from robustgen.specs import (
    AUTO_STEP_RULES,
    L2_STEP_RULES,
    LATENT_BOUND,
    LEARNED_MANIFOLDS,
    PARAMETER_RANGES,
)


def require_possible_radii(study: StudyBlocks) -> None:
    """Refuse a radius that is larger than the space.

    Raises:
        UserError: the radius is larger than the distance of any two codes of a data set.
    """
    for name, threat in study.threats.items():
        for dataset in study.datasets:
            if threat.radius is None or not study.supports(dataset, threat.space):
                continue
            largest = max_distance(study, dataset, threat.space, threat.norm)
            if threat.radius > largest:
                hint = _pixel_hint(threat.space, threat.radius)
                raise UserError(
                    f"threats.{name}.radius is {threat.radius:g}, but must be at most "
                    f"{largest:.4g}, the largest {threat.norm} distance within the space "
                    f"{threat.space} of datasets.{dataset}{hint}"
                )


def _pixel_hint(space: str, radius: float) -> str:
    """Say what to write for a radius that is probably in units of 1/255."""
    if space != "image" or not 1 < radius <= 255:
        return ""
    return f"; pixels are in [0, 1]: write {radius / 255:.4g} for {radius:g}/255"


def max_distance(study: StudyBlocks, dataset: str, space: str, norm: str) -> float:
    """Return the largest distance between two codes of a space; infinity if it is not known."""
    widths = _widths(study, dataset, space) if norm == "l2" or space != "image" else [1.0]
    if widths is None:
        return math.inf
    return max(widths) if norm == "linf" else math.hypot(*widths)


def _widths(study: StudyBlocks, dataset: str, space: str) -> list[float] | None:
    """Return upper minus lower bound of each coordinate of a space; None if they are not known."""
    data = study.datasets[dataset]
    if space == "image":
        return [1.0] * math.prod(data.shape)
    if space in LEARNED_MANIFOLDS:
        return [2 * LATENT_BOUND] * study.manifolds[dataset].latent_dim
    if space not in ("true_manifold", "transformation"):
        return None
    lower, upper = PARAMETER_RANGES[data.transformations]  # type: ignore[attr-defined]  # all kinds have it
    return [top - bottom for bottom, top in zip(lower, upper, strict=True)]


def search_warnings(study: StudyBlocks) -> list[str]:
    """Return warnings about steps that are too short or too long for their threats."""
    warnings = (_describe_short_searches(study), _describe_long_steps(study))
    return [warning for warning in warnings if warning]


def _describe_short_searches(study: StudyBlocks) -> str:
    """Name the searches that cannot reach the surface of their ball; empty if there are none.

    From the centre of a ball such a search does not reach its surface: the attack finds fewer
    adversarial examples than exist, and the training is weaker than its radius says.
    """
    descriptions = []
    for name, search in _searches(study).items():
        radius = _radius(study, search)
        reach = _max_reach(study, search)
        if reach < radius * (1 - 1e-9):  # 3 x 0.1 is below 0.3 by rounding alone
            descriptions.append(
                f"{name} ({search.steps} steps of {search.step_size:g} move at most {reach:.3g}, "
                f"but the radius is {radius:g})"
            )
    if not descriptions:
        return ""
    return (
        f"the steps of {join_words(descriptions, 'and')} are too few or too short to reach the "
        "surface of the ball from its centre, so that the search is weak; for a stronger one raise "
        "steps or step_size"
    )


def _describe_long_steps(study: StudyBlocks) -> str:
    """Name the searches with a step longer than the diameter of the ball; empty if none has one."""
    descriptions = []
    for name, search in _searches(study).items():
        threat = study.threats[str(search.threat)]
        radius = _radius(study, search)
        if search.step_rule in L2_STEP_RULES and threat.norm == "linf":
            continue  # a step of this L2 length is short in each coordinate
        if search.step_size > 2 * radius * (1 + 1e-9):
            descriptions.append(f"{name} ({search.step_size:g}, with the radius {radius:g})")
    if not descriptions:
        return ""
    return (
        f"the step_size of {join_words(descriptions, 'and')} is larger than the diameter of the "
        "ball, so that the search jumps from one side to the other; a step_size is in the units "
        "of the radius, in image space a part of the range from 0 to 1"
    )


def _searches(study: StudyBlocks) -> dict[str, Method | Attack]:
    """Return the attacks and methods whose steps have a given size, by their path in the config."""
    searches: dict[str, Method | Attack] = {
        **{f"attacks.{name}": block for name, block in study.attacks.items() if not block.members},
        **{
            f"methods.{name}": method
            for name, method in study.methods.items()
            if method.threat and method.steps
        },
    }
    return {
        path: search for path, search in searches.items() if search.step_rule not in AUTO_STEP_RULES
    }


def _radius(study: StudyBlocks, search: Method | Attack) -> float:
    """Return the radius of a search whose steps have a given size."""
    radius = study.threats[str(search.threat)].radius
    assert radius is not None, "checked by config.checks"
    return radius


def _max_reach(study: StudyBlocks, search: Method | Attack) -> float:
    """Return the largest norm of a change that the steps of a search can add up to.

    A step of the rules adam and signed changes each of D coordinates by about the step size, which
    is step_size * sqrt(D) in L2; one of the rule normalized has the L2 norm step_size.
    """
    threat = study.threats[str(search.threat)]
    reach = search.steps * search.step_size
    if threat.norm == "linf" or search.step_rule in L2_STEP_RULES:
        return reach
    datasets = [dataset for dataset in study.datasets if study.supports(dataset, threat.space)]
    widths = [_widths(study, dataset, threat.space) for dataset in datasets]
    return min(math.inf if w is None else reach * math.sqrt(len(w)) for w in widths)
