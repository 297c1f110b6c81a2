"""Checks that compare the blocks of a study, and the defaults that depend on other blocks."""

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from robustgen.config.blocks import Attack, Method
from robustgen.config.dataset_blocks import Dataset
from robustgen.config.manifolds import Manifold
from robustgen.config.messages import describe_allowed, join_words, suggestion, value_error
from robustgen.config.search_checks import require_possible_radii
from robustgen.config.study_blocks import StudyBlocks
from robustgen.errors import UserError
from robustgen.io.schemas import CLEAN
from robustgen.specs import LEARNED_MANIFOLDS, MANIFOLDS, MEMBERS, NORMS, TARGETED_LOSSES, SpaceName

S = TypeVar("S", bound=StudyBlocks)

RESERVED_NAMES = {"tables", "figures", "logs", "benchmarks"}
"""Folders of the results of a study beside those of the data sets."""


def check_consistency(study: S) -> S:
    """Return the study with the defaults that depend on other blocks.

    Raises:
        UserError: two blocks contradict each other.
    """
    _check_names(study)
    _check_seeds(study)
    _check_sizes(study)
    _check_manifolds(study)
    _check_threats(study)
    _check_members(study)
    _check_losses(study)
    require_possible_radii(study)
    study = _with_defaults(study)
    _check_examples(study)
    _check_distances(study)
    return study


def _check_names(study: StudyBlocks) -> None:
    reserved = join_words(sorted(RESERVED_NAMES), "and")
    for name in sorted(RESERVED_NAMES & set(study.datasets)):
        raise UserError(
            f"datasets.{name} must have another name: {reserved} are folders of the results"
        )
    if CLEAN in study.attacks:
        raise UserError(
            f"attacks.{CLEAN} must have another name: this one is reserved for clean test images"
        )
    for name in sorted(study.attacks.keys() & MEMBERS):
        raise UserError(
            f"attacks.{name} must have another name: as a member of an ensemble, this one is a "
            "search of the library"
        )


def _check_manifolds(study: StudyBlocks) -> None:
    """Require a data set for each manifold, and a class for each of its betas."""
    for name, manifold in study.manifolds.items():
        if name not in study.datasets:
            allowed = f"named as one of the datasets: {_one_of(name, study.datasets)}"
            raise UserError(f"manifolds.{name} must be {allowed}")
        data = study.datasets[name]
        _check_channels(name, manifold, data)
        if data.train_examples < 2 * data.classes:
            raise UserError(
                f"manifolds.{name} needs 2 or more training images of each class of datasets.{name}"
            )
        last_class = data.classes - 1
        for key in manifold.betas:
            if key != "all" and int(key) > last_class:
                allowed = f"all, or the number of a class, 0 to {last_class}"
                raise UserError(f"manifolds.{name}.betas.{key} must be named {allowed}")


def _check_channels(name: str, manifold: Manifold, data: Dataset) -> None:
    """Require that the convolutions, each of which halves an image, leave at least one pixel."""
    _, height, width = data.shape
    if 2 ** len(manifold.channels) > min(height, width):
        max_count = min(height, width).bit_length() - 1
        allowed = f"{max_count} numbers at most: each halves images of {height}x{width} pixels"
        raise value_error(list(manifold.channels), allowed, "manifolds", name, "channels")


def _check_threats(study: StudyBlocks) -> None:
    """Require a usable threat of each search, and a method and an attack for each data set."""
    groups: dict[str, Mapping[str, Method | Attack]] = {
        "methods": study.methods,
        "attacks": study.attacks,
    }
    for group, searches in groups.items():
        for name, search in searches.items():
            if search.threat is not None:
                _check_threat(study, search.threat, group, name)
                _check_radius(study, search, group, name)
        for dataset in study.datasets:
            if not any(study.applies_to(dataset, search) for search in searches.values()):
                spaces = join_words(
                    space for space in get_args(SpaceName) if study.supports(dataset, space)
                )
                raise UserError(
                    f"{group} has none that datasets.{dataset} can use; add one whose threat is in "
                    f"one of its spaces: {spaces}"
                )


def _check_threat(study: StudyBlocks, threat: str, group: str, name: str) -> None:
    """Require that a threat exists and that a data set has its space."""
    if threat not in study.threats:
        allowed = f"one of the threats: {_one_of(threat, study.threats)}"
        raise value_error(threat, allowed, group, name, "threat")
    space = study.threats[threat].space
    if _is_usable(study, space):
        return
    usable = [key for key, block in study.threats.items() if _is_usable(study, block.space)]
    choice = f" ({join_words(usable)})" if usable else ", such as image"
    allowed = f"a threat in another space{choice}, as {_reason_of_missing_space(study, space)}"
    raise value_error(threat, allowed, group, name, "threat")


def _check_radius(study: StudyBlocks, search: Method | Attack, group: str, name: str) -> None:
    """Require a radius, or none for an attack that finds the smallest perturbation."""
    threat = study.threats[str(search.threat)]
    if not (isinstance(search, Attack) and search.is_minimal):
        if threat.radius is None:
            is_search = isinstance(search, Attack) and not search.members
            hint = "; attacks with step_rule: fmn do not need one" if is_search else ""
            radius = describe_allowed(type(threat).model_fields["radius"])
            raise UserError(
                f"threats.{search.threat}.radius is missing, but must be {radius}, because "
                f"{group}.{name} searches within a radius{hint}"
            )
        return
    norms = ("l2",) if search.step_rule == "carlini_wagner" else NORMS
    if threat.radius is None and threat.norm in norms:
        return
    usable = [
        key
        for key, block in study.threats.items()
        if block.radius is None and block.norm in norms and block.space == threat.space
    ]
    choice = join_words(usable) if usable else f"{{space: {threat.space}, norm: {norms[0]}}}"
    allowed = (
        f"a threat without a radius, of the norm {join_words(norms)} ({choice}): the step rule "
        f"{search.step_rule} finds the smallest radius itself"
    )
    raise value_error(search.threat, allowed, group, name, "threat")


def _check_members(study: StudyBlocks) -> None:
    """Require that members of ensembles are known searches that fit the threat of the ensemble."""
    for name, attack in study.attacks.items():
        misfits = {key: _reason_of_misfit(study, name, key) for key in study.attacks}
        usable_attacks = [key for key, reason in misfits.items() if not reason]
        allowed_names = dict.fromkeys([*MEMBERS, *usable_attacks])
        for index, member in enumerate(attack.members):
            if member not in allowed_names:
                reason = f": {misfits[member]}" if member in misfits else ""
                allowed = f"one of the searches {_one_of(member, allowed_names)}{reason}"
                raise value_error(member, allowed, "attacks", name, "members", index)


def _reason_of_misfit(study: StudyBlocks, ensemble: str, member: str) -> str:
    """Return why an attack cannot be a member of an ensemble; empty if it can be one."""
    attack, threat = study.attacks[member], study.threats[study.attacks[ensemble].threat]
    if member == ensemble:
        return "an ensemble cannot be its own member"
    if attack.members:
        return f"{member} has members of its own"
    if study.space_of(attack) != threat.space:
        return f"{member} is an attack in another space"
    if attack.step_rule == "carlini_wagner" and threat.norm != "l2":
        return f"the step rule {attack.step_rule} of {member} needs the norm l2"
    return ""


def _check_losses(study: StudyBlocks) -> None:
    """Require three classes of each data set that a search with a targeted loss attacks."""
    searches: list[tuple[str, Method | Attack, str]] = [
        *((f"methods.{name}", block, block.loss) for name, block in study.methods.items()),
        *(
            (f"the member {key} of attacks.{name}" if key else f"attacks.{name}", block, s.loss)
            for name, block in study.attacks.items()
            for key, s in study.searches_of(block).items()
        ),
    ]
    for description, block, loss in searches:
        for name, data in study.datasets.items():
            is_targeted = loss in TARGETED_LOSSES and study.applies_to(name, block)
            if is_targeted and data.classes < 3:
                raise UserError(
                    f"{description} has the loss {loss}, which needs 3 or more classes, but "
                    f"datasets.{name} has 2; use the loss margin, or the members auto_margin and "
                    "fmn"
                )


def _is_usable(study: StudyBlocks, space: str) -> bool:
    """Whether a data set of the study has `space`."""
    return any(study.supports(dataset, space) for dataset in study.datasets)


def _reason_of_missing_space(study: StudyBlocks, space: str) -> str:
    """Say why no data set has `space`, for the first data set."""
    name = next(iter(study.datasets))
    if space in LEARNED_MANIFOLDS:
        return f"no manifold of datasets.{name} is learned: manifolds.{name} is missing"
    return f"the true manifold of datasets.{name} is not known"


def _check_seeds(study: StudyBlocks) -> None:
    size, seeds = study.cohort_size, study.seeds
    if seeds > size and seeds % size:
        lower_multiple = seeds - seeds % size
        raise value_error(
            seeds,
            f"at most cohort_size, {size}, or a multiple of it, such as {lower_multiple} or "
            f"{lower_multiple + size}, so that more seeds add cohorts and retrain none",
            "seeds",
        )


def _check_sizes(study: StudyBlocks) -> None:
    for index, n in enumerate(study.sizes):
        for name, dataset in study.datasets.items():
            classes, max_n = dataset.classes, dataset.train_examples
            if n % classes:
                allowed = f"a multiple of {classes}, the number of classes of datasets.{name}"
                raise value_error(n, allowed, "sizes", index)
            if n > max_n:
                allowed = f"at most {max_n}, the number of training images of datasets.{name}"
                raise value_error(n, allowed, "sizes", index)


def _with_defaults(study: S) -> S:
    """Return the study with the defaults that depend on other blocks."""
    smallest_test_split = min(data.test_examples for data in study.datasets.values())
    attacks = {name: _limit(block, smallest_test_split) for name, block in study.attacks.items()}
    study = study.model_copy(update={"attacks": attacks})
    defaults = _distance_defaults(study, smallest_test_split)
    distances = study.distances
    unset = {key: value for key, value in defaults.items() if key not in distances.model_fields_set}
    return study.model_copy(update={"distances": distances.model_copy(update=unset)})


def _limit(attack: Attack, max_examples: int) -> Attack:
    """Return an attack whose default number of examples is at most `max_examples`."""
    if "examples" in attack.model_fields_set:
        return attack
    return attack.model_copy(update={"examples": min(attack.examples, max_examples)})


def _distance_defaults(study: StudyBlocks, smallest_test_split: int) -> dict[str, Any]:
    """Return the defaults of the block `distances`."""
    distances, attacks = study.distances, study.attacks
    smallest_train_split = min(data.train_examples for data in study.datasets.values())
    without_threat = tuple(name for name, block in study.methods.items() if block.threat is None)
    near_manifold = tuple(
        name
        for name, attack in attacks.items()
        if study.space_of(attack) in ("image", *MANIFOLDS) and not attack.is_minimal
    )
    names = distances.attacks if "attacks" in distances.model_fields_set else near_manifold
    attacked = [attacks[name].examples for name in names if name in attacks]
    return {
        "methods": without_threat or tuple(study.methods),
        "attacks": near_manifold,
        "neighbours": max(2, min(distances.neighbours, smallest_train_split - 1)),
        "examples": min(distances.examples, smallest_test_split, *attacked),
    }


def _check_examples(study: StudyBlocks) -> None:
    for attack, block in study.attacks.items():
        for name, data in study.datasets.items():
            if attack in study.attacks_of(name) and block.examples > data.test_examples:
                raise value_error(
                    block.examples,
                    f"at most {data.test_examples}, the number of test images of datasets.{name}",
                    *("attacks", attack, "examples"),
                )


def _check_distances(study: StudyBlocks) -> None:
    distances = study.distances
    for key, group in (("methods", study.methods), ("attacks", study.attacks)):
        for index, name in enumerate(getattr(distances, key)):
            if name not in group:
                allowed = f"one of the {key}: {_one_of(name, group)}"
                raise value_error(name, allowed, "distances", key, index)
    limits = {f"examples of attacks.{n}": study.attacks[n].examples for n in distances.attacks}
    for name, data in study.datasets.items():
        limits[f"test images of datasets.{name}"] = data.test_examples
        if distances.neighbours >= data.train_examples:
            allowed = (
                f"below {data.train_examples}, the number of training images of datasets.{name}"
            )
            raise value_error(distances.neighbours, allowed, "distances", "neighbours")
    for description, limit in limits.items():
        if distances.examples > limit:
            allowed = f"at most {limit}, the number of {description}"
            raise value_error(distances.examples, allowed, "distances", "examples")


def _one_of(name: str, names: Mapping[str, Any]) -> str:
    """Return the allowed names, and the one that is most similar to `name`."""
    return f"{join_words(names)}{suggestion(name, names)}"
