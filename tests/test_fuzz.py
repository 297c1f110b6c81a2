"""Configs with random mistakes are valid or refused in one sentence, whatever the mistake."""

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from conftest import HERE

from robustgen.config.study import Study
from robustgen.errors import UserError

CONFIGS = [yaml.safe_load(path.read_text()) for path in sorted(HERE.glob("config/*.yaml"))]
JUNK: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "a", "regular", "image", "../up", "/etc", "a b", "x" * 5000, "\x00", "ü\n", "[]", "1"),
    *([], [[]], [None], [1, 1], {}, {"": {}}, {"a": {}}, {1: 2}, {None: None}, {"../up": {}}),
]
NAME = re.compile(r"[A-Za-z0-9_-]+")


def places(value: Any, parent: Any = None, key: Any = None) -> Iterator[tuple[Any, Any]]:
    """Every container of a config with every key in it."""
    if parent is not None:
        yield parent, key
    if isinstance(value, dict | list):
        children = value.items() if isinstance(value, dict) else enumerate(value)
        for name, child in list(children):
            yield from places(child, value, name)


def replaced(rng: random.Random, config: Any) -> None:
    parent, key = rng.choice(list(places(config)))
    parent[key] = rng.choice(JUNK)


def removed(rng: random.Random, config: Any) -> None:
    parent, key = rng.choice(list(places(config)))
    del parent[key]


def renamed(rng: random.Random, config: Any) -> None:
    parent, key = rng.choice([at for at in places(config) if isinstance(at[0], dict)])
    value = parent.pop(key)
    parent[rng.choice([f"{key}z", str(key)[:-1], "", "a", 3, None, "../up"])] = value


def swapped(rng: random.Random, config: Any) -> None:
    (one, a), (other, b) = rng.sample(list(places(config)), 2)
    one[a], other[b] = yaml.safe_load(yaml.safe_dump([other[b], one[a]]))


CHANGES: list[Callable[[random.Random, Any], None]] = [replaced, removed, renamed, swapped]


@pytest.mark.parametrize("part", range(10))
def test_configs_with_random_mistakes(part):
    """A thousand in all, of one to three mistakes each."""
    rng, refused = random.Random(part), 0
    for _ in range(100):
        config = yaml.safe_load(yaml.safe_dump(rng.choice(CONFIGS), sort_keys=False))
        for _ in range(rng.randint(1, 3)):
            if any(True for _ in places(config)):
                rng.choice(CHANGES)(rng, config)
        try:
            study = Study.parse(config)
        except UserError as error:
            said = str(error)
            refused += 1
        else:
            said = "valid"
            assert Study.parse(study.to_config()) == study
            names = [study.study, *study.datasets, *study.methods, *study.attacks]
            assert all(NAME.fullmatch(name) for name in names), names
        assert 0 < len(said) < 600, said
        assert "\n" not in said, said
    assert 50 < refused < 99
