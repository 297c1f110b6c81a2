"""Whether the radius of a threat fits its space, and whether a search can cross the ball."""

import math
from typing import TYPE_CHECKING

from robustgen.config.blocks import LEARNED, Attack, Method
from robustgen.config.messages import listed
from robustgen.errors import UserError
from robustgen.specs import BOUND, RANGES

if TYPE_CHECKING:
    from robustgen.config.study import Study


def require_possible_radii(study: "Study") -> None:
    """Refuse a radius that is larger than the space.

    Raises:
        UserError: no two codes of a data set are that far from each other.
    """
    for name, threat in study.threats.items():
        for dataset in study.datasets:
            if not study.has(dataset, threat.space):
                continue
            largest = max_distance(study, dataset, threat.space, threat.norm)
            if threat.radius > largest:
                raise UserError(
                    f"threats.{name}.radius is {threat.radius:g}, but must be at most "
                    f"{largest:.4g}, the largest {threat.norm} distance within the space "
                    f"{threat.space} of datasets.{dataset}{_advice(threat.space, threat.radius)}"
                )


def _advice(space: str, radius: float) -> str:
    """What was probably meant by a radius in units of 1/255."""
    if space != "image" or not 1 < radius <= 255:
        return ""
    return f"; pixels are in [0, 1]: write {radius / 255:.4g} for {radius:g}/255"


def max_distance(study: "Study", dataset: str, space: str, norm: str) -> float:
    """The largest distance between two codes within the bounds of a space."""
    widths = _widths(study, dataset, space) if norm == "l2" or space != "image" else [1.0]
    return max(widths) if norm == "linf" else math.hypot(*widths)


def _widths(study: "Study", dataset: str, space: str) -> list[float]:
    """Upper minus lower bound of each coordinate of a space."""
    data = study.datasets[dataset]
    if space == "image":
        return [1.0] * math.prod(data.shape)
    if space in LEARNED:
        return [2 * BOUND] * study.manifolds[dataset].latent
    lower, upper = RANGES[data.transformations]  # type: ignore[attr-defined]  # all kinds have it
    return [high - low for low, high in zip(lower, upper, strict=True)]


def search_warnings(study: "Study") -> list[str]:
    """One sentence for each kind of search that cannot do what its threat asks for."""
    return [warning for find in (_short_searches, _long_steps) if (warning := find(study))]


def _short_searches(study: "Study") -> str:
    """The searches whose steps cannot cross the ball, in one sentence; empty if all can.

    From the centre of a ball such a search does not reach its surface: the attack finds fewer
    adversarial examples than exist, and the training is weaker than its radius says.
    """
    descriptions = []
    for name, search in _searches(study).items():
        radius = study.threats[str(search.threat)].radius
        reach = _max_reach(study, search)
        if reach < radius * (1 - 1e-9):  # 3 x 0.1 is below 0.3 by rounding alone
            descriptions.append(
                f"{name} ({search.steps} steps of {search.step_size:g} reach {reach:.3g} "
                f"of the radius {radius:g})"
            )
    if not descriptions:
        return ""
    return (
        f"the steps of {listed(descriptions, 'and')} are too few or too short to cross the ball of "
        "the threat, so that the search is weak; for a stronger one raise steps or step_size"
    )


def _long_steps(study: "Study") -> str:
    """The searches whose single step is longer than the ball is wide, in one sentence."""
    descriptions = []
    for name, search in _searches(study).items():
        threat = study.threats[str(search.threat)]
        radius = threat.radius
        if search.step_rule == "normalized" and threat.norm == "linf":
            continue  # its L2 length is spread over all coordinates
        if search.step_size > 2 * radius * (1 + 1e-9):
            descriptions.append(f"{name} ({search.step_size:g}, with the radius {radius:g})")
    if not descriptions:
        return ""
    return (
        f"the step_size of {listed(descriptions, 'and')} is larger than the ball of the threat is "
        "wide, so that the search jumps from one side to the other; a step_size is in the units of "
        "the radius, in image space a part of the range from 0 to 1"
    )


def _searches(study: "Study") -> dict[str, Method | Attack]:
    """The attacks and the methods that search, by their place in the config."""
    return {
        **{f"attacks.{name}": attack for name, attack in study.attacks.items()},
        **{
            f"methods.{name}": method
            for name, method in study.methods.items()
            if method.threat and method.steps
        },
    }


def _max_reach(study: "Study", search: Method | Attack) -> float:
    """The largest change, in the norm of the threat, that the steps of a search add up to.

    A step of the rules adam and signed changes each of D coordinates by about the step size, which
    is step_size * sqrt(D) in L2; one of the rule normalized has the L2 norm step_size.
    """
    threat = study.threats[str(search.threat)]
    reach = search.steps * search.step_size
    if threat.norm == "linf" or search.step_rule == "normalized":
        return reach
    datasets = [dataset for dataset in study.datasets if study.has(dataset, threat.space)]
    dimensions = min(len(_widths(study, dataset, threat.space)) for dataset in datasets)
    return reach * math.sqrt(dimensions)
