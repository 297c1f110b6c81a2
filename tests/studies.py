"""A small valid config, and helpers that change it."""

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
  letters: {kind: fonts, fonts: 5, letters: AB, train_images_per_glyph: 6, test_images_per_glyph: 2}
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
"""A marker in place of a value: `changed` removes the key."""

Keys = tuple[Any, ...]
MANIFOLD_OUT: list[tuple[Keys, Any]] = [
    (("methods", "on_manifold"), OUT),
    (("attacks", "codes"), OUT),
    (("distances",), OUT),
]


def valid() -> dict[str, Any]:
    """Return a new copy of the valid config."""
    return yaml.safe_load(VALID)


def changed(*changes: tuple[Keys, Any], config: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a copy of a config in which values are set, or removed where the value is `OUT`."""
    config = copy.deepcopy(config) if config else valid()
    for (*parent_keys, key), value in changes:
        block: Any = reduce(lambda parent, name: parent[name], parent_keys, config)
        if value is OUT:
            del block[key]
        else:
            block[key] = value
    return config


def refused(config: Any) -> str:
    """Return the sentence with which a config is refused."""
    with pytest.raises(UserError) as raised:
        Study.parse(config)
    return str(raised.value)
