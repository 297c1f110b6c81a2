"""A small valid config, and what tests make of it."""

import copy
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from robustgen.config.study import Study
from robustgen.errors import UserError

CONFIGS = Path(__file__).parents[1] / "config"

VALID = """
study: a-study_1
sizes: [20, 40]
seeds: 3
cohort_size: 3
datasets:
  letters: {kind: fonts, fonts: 5, letters: AB, train_draws: 6, test_draws: 2}
threats:
  ball: {space: image, norm: linf, radius: 0.3}
  manifold: {space: true_manifold, norm: l2, radius: 1}
  warp: {space: transformation, norm: linf, radius: 0.2}
methods:
  plain: {}
  warped: {threat: warp, steps: 0}
  hardened: {threat: ball, steps: 7}
  on_manifold: {threat: manifold, step_rule: signed}
attacks:
  warps: {threat: warp, examples: 5}
  pixels: {threat: ball, restarts: 2, examples: 10}
  codes: {threat: manifold, examples: 15}
distances: {methods: [plain], attacks: [pixels, codes], examples: 8, neighbours: 3}
"""
KIND_NAMES = "fonts, emnist, fashion_mnist, celeba, images or npz"
OUT = object()
"""In place of a value: the key is left out."""

Keys = tuple[Any, ...]
MANIFOLD_OUT: list[tuple[Keys, Any]] = [
    (("methods", "on_manifold"), OUT),
    (("attacks", "codes"), OUT),
    (("distances",), OUT),
]


def valid() -> dict[str, Any]:
    return yaml.safe_load(VALID)


def changed(*changes: tuple[Keys, Any], config: dict[str, Any] | None = None) -> dict[str, Any]:
    """The valid config with the values at some keys set or left out."""
    config = copy.deepcopy(config) if config else valid()
    for (*above, last), value in changes:
        block: Any = reduce(lambda held, key: held[key], above, config)
        if value is OUT:
            del block[last]
        else:
            block[last] = value
    return config


def refused(config: Any) -> str:
    with pytest.raises(UserError) as caught:
        Study.parse(config)
    return str(caught.value)
