"""Verdicts on the claims, from the statistics that test them, and both as text for a reader."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from robustgen.analysis.claims import (
    CLAIM_WORDS,
    HERE,
    NOT_SUPPORTED,
    STATISTICS,
    SUPPORTED,
    UNDECIDED,
    UNDECIDED_AS,
)
from robustgen.analysis.evidence import OnManifold, Roles
from robustgen.analysis.statistics import Interval


def verdicts(claims: pa.Table) -> dict[tuple[str, int, str | None], str]:
    """The verdict on each claim, by data set, number of the claim, and manifold where on one.

    A claim is supported if all its statistics support it, not supported if one does not, and
    otherwise undecided.

    Args:
        claims: a table with the schema `CLAIMS`.
    """
    said: dict[tuple[str, int, str | None], set[str]] = {}
    for row in claims.select([*_KEYS, "verdict"]).to_pylist():
        said.setdefault(_key(row), set()).add(row["verdict"])
    return {key: _joint(of) for key, of in said.items()}


_KEYS = ("dataset", "claim", "manifold")


def _key(row: Mapping[str, Any]) -> tuple[str, int, str | None]:
    return row["dataset"], row["claim"], row["manifold"]


def _joint(said: set[str]) -> str:
    if NOT_SUPPORTED in said:
        return NOT_SUPPORTED
    return SUPPORTED if said == {SUPPORTED} else UNDECIDED


def describe(
    claims: pa.Table, roles: Roles, on_manifold: Mapping[str, Sequence[OnManifold]]
) -> str:
    """The claims, verdicts and statistics of every data set as text for a terminal.

    Args:
        claims: a table with the schema `CLAIMS`.
        roles: what the study calls its methods and attacks, as they were tested with.
        on_manifold: those on the manifolds of each data set.
    """
    rows = claims.to_pylist()
    lines: list[str] = []
    dataset = None
    for (name, claim, manifold), verdict in verdicts(claims).items():
        if name != dataset:
            words = _role_lines(roles, on_manifold.get(name, []))
            lines += [*([""] if lines else []), f"Data set {name}", *words]
            dataset = name
        where = f", on the {manifold.replace('_', ' ')}" if manifold else ""
        lines += [f"  {claim}. {CLAIM_WORDS[claim]}{where}: {verdict}"]
        said = ""
        for row in rows:
            if _key(row) == (name, claim, manifold):
                here = _here(row)
                lines.append(_statistic_line(row))
                lines += [f"         ({here})"] if here not in ("", said) else []
                said = here
    return "\n".join(lines)


def _role_lines(roles: Roles, on_manifold: Sequence[OnManifold]) -> list[str]:
    """Which methods and attacks the claims are tested with."""
    methods = [roles["normal"], *(of["method"] for of in on_manifold), roles["adversarial"]]
    attacks = [*roles["regular_attacks"], *(of["attack"] for of in on_manifold)]
    named = {"methods": filter(None, methods), "attacks": filter(None, attacks)}
    return [f"  {kind} compared: {', '.join(names)}" for kind, names in named.items()]


def _statistic_line(row: Mapping[str, Any]) -> str:
    """A statistic with its interval, bar and verdict."""
    name = row["statistic"].replace("_", " ") + ("" if row["n"] is None else f", N = {row['n']}")
    estimate, low, high = (row[end] for end in Interval._fields)
    text = "no estimate" if estimate is None else f"{estimate:.3g}"
    text += "" if low is None else f" [{low:.3g}, {high:.3g}]"
    bar = next(of.bar for of in STATISTICS if of.name == row["statistic"])
    return f"       {name:<32} {text:<24} > {bar:<5g} {row['verdict']}"


def _here(row: Mapping[str, Any]) -> str:
    """How the statistic was measured or why it is undecided, where the row says so."""
    return str(row["rule"]).partition(HERE)[2].removeprefix(UNDECIDED_AS)
