"""The verdicts on the claims, and their text for a terminal."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from robustgen.analysis.claims import (
    CLAIM_SENTENCES,
    NOT_SUPPORTED,
    NOT_TESTED,
    NOTE_PREFIX,
    STATISTICS,
    SUPPORTED,
    UNDECIDED,
    UNDECIDED_PREFIX,
)
from robustgen.analysis.robustness_checks import format_checks
from robustgen.analysis.statistics import Interval
from robustgen.specs import OnManifold, Roles

VerdictKey = tuple[str, int, str | None]
"""Data set, number of the claim, and manifold if the claim is tested on one."""


def combine_verdicts(claims: pa.Table) -> dict[VerdictKey, str]:
    """Return the verdict on each claim, from the verdicts of its statistics.

    A claim is supported if all its statistics support it, not supported if one does not, and
    undecided otherwise. Rows that are not tested do not count.

    Args:
        claims: a table with the schema `CLAIMS`.
    """
    by_claim: dict[VerdictKey, set[str]] = {}
    for row in claims.select([*_KEYS, "verdict"]).to_pylist():
        verdicts = by_claim.setdefault(_key(row), set())
        if row["verdict"] != NOT_TESTED:
            verdicts.add(row["verdict"])
    return {key: _combine(verdicts) for key, verdicts in by_claim.items()}


_KEYS = ("dataset", "claim", "manifold")


def _key(row: Mapping[str, Any]) -> VerdictKey:
    return row["dataset"], row["claim"], row["manifold"]


def _combine(verdicts: set[str]) -> str:
    if NOT_SUPPORTED in verdicts:
        return NOT_SUPPORTED
    return SUPPORTED if verdicts == {SUPPORTED} else UNDECIDED


def format_verdicts(
    claims: pa.Table,
    checks: pa.Table,
    roles: Roles,
    on_manifold: Mapping[str, Sequence[OnManifold]],
) -> str:
    """Return the claims, verdicts and statistics of every data set as text for a terminal.

    Each claim is followed by the warnings about success rates of the attacks that it uses.

    Args:
        claims: a table with the schema `CLAIMS`.
        checks: a table with the schema `ROBUSTNESS_CHECKS`.
        roles: names of the methods and attacks with which the claims were tested.
        on_manifold: manifolds of each data set, with the names of the method and attack on each.
    """
    rows = claims.to_pylist()
    lines: list[str] = []
    current_dataset = None
    for (dataset, claim, manifold), verdict in combine_verdicts(claims).items():
        if dataset != current_dataset:
            separator = [""] if lines else []
            roles_lines = _role_lines(roles, on_manifold.get(dataset, []))
            lines += [*separator, f"Data set {dataset}", *roles_lines]
            current_dataset = dataset
        suffix = f", on the {manifold.replace('_', ' ')}" if manifold else ""
        lines.append(f"  {claim}. {CLAIM_SENTENCES[claim]}{suffix}: {verdict}")
        lines += _statistic_lines([row for row in rows if _key(row) == (dataset, claim, manifold)])
        pairs = [pair for pair in on_manifold.get(dataset, []) if pair["manifold"] == manifold]
        dataset_checks = checks.filter(pc.equal(checks["dataset"], dataset))
        warnings = format_checks(dataset_checks, _attacks_of_claim(claim, roles, pairs))
        lines += [f"       warning: {warning}" for warning in warnings]
    return "\n".join(lines)


def _attacks_of_claim(claim: int, roles: Roles, on_manifold: Sequence[OnManifold]) -> list[str]:
    """Return the attacks whose warnings stand beside a claim.

    These are the attacks that the claim uses, and the attacks for the smallest perturbation in the
    same spaces: where they find none, the other attacks may fail, too.

    Args:
        claim: number of the claim.
        roles: names of the methods and attacks.
        on_manifold: the manifold of the claim, and its method and attack.
    """
    spaces = [] if claim == 4 else [str(pair["manifold"]) for pair in on_manifold]
    attacks = [] if claim == 4 else [pair["attack"] for pair in on_manifold]
    if claim in (1, 4):
        spaces.append("image")
        attacks += roles["strong_attacks"] if claim == 4 else [roles["regular_attack"]]
    minimal_attacks = chain(*(roles["minimal_attacks"].get(space, []) for space in spaces))
    return [*filter(None, attacks), *minimal_attacks]


def _role_lines(roles: Roles, on_manifold: Sequence[OnManifold]) -> list[str]:
    """Return the methods and attacks with which the claims were tested."""
    on_manifold_methods = [pair["method"] for pair in on_manifold]
    methods = [roles["normal"], *on_manifold_methods, *roles["adversarial_methods"]]
    attacks = [*roles["regular_attacks"], *(pair["attack"] for pair in on_manifold)]
    names = {"methods": filter(None, methods), "attacks": filter(None, attacks)}
    return [f"  {kind} compared: {', '.join(group)}" for kind, group in names.items()]


def _statistic_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the statistics of one claim. A note that repeats the previous one is omitted."""
    lines: list[str] = []
    previous_note = ""
    for row in rows:
        lines.append(_statistic_line(row))
        note = _short_note(row)
        if note not in ("", previous_note):
            lines.append(f"         ({note})")
        previous_note = note
    return lines


def _statistic_line(row: Mapping[str, Any]) -> str:
    """Describe a statistic with its interval, threshold and verdict."""
    name = row["statistic"].replace("_", " ") + ("" if row["n"] is None else f", N = {row['n']}")
    estimate, low, high = (row[field] for field in Interval._fields)
    text = "no estimate" if estimate is None else f"{estimate:.3g}"
    text += "" if low is None else f" [{low:.3g}, {high:.3g}]"
    threshold = next(s.threshold for s in STATISTICS if s.name == row["statistic"])
    return f"       {name:<36} {text:<24} > {threshold:<5g} {row['verdict']}"


def _short_note(row: Mapping[str, Any]) -> str:
    """Return the note of a row without the words of its verdict; empty without a note."""
    return str(row["rule"]).partition(NOTE_PREFIX)[2].removeprefix(UNDECIDED_PREFIX)
