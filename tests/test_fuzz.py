"""Configs with random changes are valid or refused in one sentence."""

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from conftest import ROOT

from robustgen.config.study import Study
from robustgen.errors import UserError

CONFIGS = [yaml.safe_load(path.read_text()) for path in sorted(ROOT.glob("config/*.yaml"))]
JUNK: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "a", "regular", "image", "../up", "/etc", "a b", "x" * 5000, "\x00", "ü\n", "[]", "1"),
    *([], [[]], [None], [1, 1], {}, {"": {}}, {"a": {}}, {1: 2}, {None: None}, {"../up": {}}),
]
NAME = re.compile(r"[A-Za-z0-9_-]+")


def places(value: Any, parent: Any = None, key: Any = None) -> Iterator[tuple[Any, Any]]:
    """Yield every mapping or list of a config with each of its keys or indices."""
    if parent is not None:
        yield parent, key
    if isinstance(value, dict | list):
        children = value.items() if isinstance(value, dict) else enumerate(value)
        for name, child in list(children):
            yield from places(child, value, name)


def replace_value(rng: random.Random, config: Any) -> None:
    parent, key = rng.choice(list(places(config)))
    parent[key] = rng.choice(JUNK)


def remove_key(rng: random.Random, config: Any) -> None:
    parent, key = rng.choice(list(places(config)))
    del parent[key]


def rename_key(rng: random.Random, config: Any) -> None:
    parent, key = rng.choice([place for place in places(config) if isinstance(place[0], dict)])
    value = parent.pop(key)
    parent[rng.choice([f"{key}z", str(key)[:-1], "", "a", 3, None, "../up"])] = value


def swap_values(rng: random.Random, config: Any) -> None:
    (parent1, key1), (parent2, key2) = rng.sample(list(places(config)), 2)
    values = yaml.safe_load(yaml.safe_dump([parent2[key2], parent1[key1]]))
    parent1[key1], parent2[key2] = values


CHANGES: list[Callable[[random.Random, Any], None]] = [
    replace_value,
    remove_key,
    rename_key,
    swap_values,
]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_randomly_changed_config_is_valid_or_refused_in_one_sentence(seed):
    """A hundred configs per seed, each with one to three changes."""
    rng, refused = random.Random(seed), 0
    for _ in range(100):
        config = yaml.safe_load(yaml.safe_dump(rng.choice(CONFIGS), sort_keys=False))
        for _ in range(rng.randint(1, 3)):
            if any(True for _ in places(config)):
                rng.choice(CHANGES)(rng, config)
        try:
            study = Study.parse(config)
        except UserError as error:
            message = str(error)
            refused += 1
        else:
            message = "valid"
            assert Study.parse(study.to_config()) == study
            names = [study.study, *study.datasets, *study.methods, *study.attacks]
            assert all(NAME.fullmatch(name) for name in names), names
        assert 0 < len(message) < 600, message
        assert "\n" not in message, message
    assert 50 < refused < 99
