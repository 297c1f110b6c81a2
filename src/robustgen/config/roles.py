"""The methods and attacks that claims and figures use, and their descriptions in captions."""

from collections.abc import Iterable
from itertools import product

from robustgen.config.study import Study
from robustgen.specs import (
    MANIFOLDS,
    NORM_SYMBOLS,
    CheckedAttack,
    MinimalAttack,
    OnManifold,
    Roles,
    describe_for_checks,
)


def find_roles(study: Study) -> Roles:
    """Return the methods and attacks of each role, which their spaces decide."""
    regular = {
        name: attack
        for name, attack in study.attacks.items()
        if study.space_of(attack) == "image" and not attack.is_minimal
    }
    strong = [name for name, attack in regular.items() if attack.members] or list(regular)
    adversarial = {
        name: method
        for name, method in study.methods.items()
        if study.space_of(method) == "image" and method.steps
    }
    not_adversarial = [
        name for name, method in study.methods.items() if study.space_of(method) != "image"
    ]
    return {
        "normal": _first_method(study, None),
        "adversarial": next(iter(adversarial), None),
        "adversarial_methods": list(adversarial),
        "not_adversarial": not_adversarial,
        "regular_attack": next(iter(regular), None),
        "regular_attacks": {name: threat_caption(study, name) for name in regular},
        "strong_attacks": strong,
        "robust_pairs": [
            (method, attack)
            for method, attack in product(adversarial, strong)
            if study.threats[str(adversarial[method].threat)]
            == study.threats[regular[attack].threat]
        ],
        "minimal_attacks": _minimal_attacks_by_space(study),
    }


def _minimal_attacks_by_space(study: Study) -> dict[str, list[str]]:
    """Return the attacks that find the smallest perturbation, by space."""
    attacks: dict[str, list[str]] = {}
    for name, attack in study.attacks.items():
        if attack.is_minimal:
            attacks.setdefault(str(study.space_of(attack)), []).append(name)
    return attacks


def find_on_manifold(study: Study, dataset: str) -> list[OnManifold]:
    """Return the method and the attack on each manifold of a data set that has one of them."""
    rows: list[OnManifold] = []
    for space in MANIFOLDS:
        method, attack = _first_method(study, space), _first_attack(study, space)
        if study.supports(dataset, space) and (attack or method):
            rows.append({"manifold": space, "method": method, "attack": attack})
    return rows


def find_minimal_attacks(study: Study, dataset: str) -> dict[str, MinimalAttack]:
    """Return the attacks on a data set that find the smallest perturbation.

    Each has the attacks with a radius in the same space and norm, whose success rates are points on
    its curve.
    """
    minimal_attacks: dict[str, MinimalAttack] = {}
    for name in study.attacks_of(dataset):
        if not study.attacks[name].is_minimal:
            continue
        threat = study.threats[study.attacks[name].threat]
        radii = {
            attack: study.threats[block.threat].radius
            for attack, block in study.attacks.items()
            if (study.threats[block.threat].space, study.threats[block.threat].norm)
            == (threat.space, threat.norm)
        }
        points = {attack: radius for attack, radius in radii.items() if radius is not None}
        minimal_attacks[name] = {"space": threat.space, "norm": threat.norm, "points": points}
    return minimal_attacks


def find_checked_attacks(study: Study) -> dict[str, CheckedAttack]:
    """Return what the checks of success rates need to know of each attack."""
    return {
        name: describe_for_checks(
            study.searches_of(block),
            block.is_minimal,
            ensemble=None if block.members else _first_ensemble(study, block.threat),
        )
        for name, block in study.attacks.items()
    }


def _first_ensemble(study: Study, threat: str) -> str | None:
    """Return the first ensemble with the space, norm and radius of a threat."""
    for name, attack in study.attacks.items():
        if attack.members and study.threats[attack.threat] == study.threats[threat]:
            return name
    return None


def _first_method(study: Study, space: str | None) -> str | None:
    """Return the first method that searches in `space`; with None, the first without a threat."""
    for name, method in study.methods.items():
        if study.space_of(method) == space and method.steps:
            return name
    return None


def _first_attack(study: Study, space: str) -> str | None:
    for name, attack in study.attacks.items():
        if study.space_of(attack) == space and not attack.is_minimal:
            return name
    return None


def threat_caption(study: Study, attack: str) -> str:
    """Return the norm and the radius of an attack's threat, e.g. "L∞ radius 0.3"."""
    threat = study.threats[study.attacks[attack].threat]
    symbol = NORM_SYMBOLS[threat.norm]
    return (
        f"smallest {symbol} radius"
        if threat.radius is None
        else f"{symbol} radius {threat.radius:g}"
    )


def attacks_caption(study: Study, attacks: Iterable[str]) -> str:
    """Return a clause for captions: the threat and the number of test images of each attack."""
    clauses = [
        f"{name}: {threat_caption(study, name)}, {study.attacks[name].examples} test images"
        for name in attacks
    ]
    return f"Attacks ({'; '.join(clauses)})" if clauses else "No attack is drawn"
