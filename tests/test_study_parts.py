"""Each job's part of a study holds what the job uses alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from studies import CONFIGS, MANIFOLD_OUT, Keys, changed, valid

from robustgen.config.study import Study


def parts(study: Study) -> dict[str, str]:
    """All parts of the study by job, as JSON: 1 and 1.0 differ."""
    jobs = {"fonts": study.fonts_part("letters"), "codes": study.codes_part("letters")}
    for method in study.methods:
        jobs[f"train {method}"] = study.training_part("letters", method)
    for attack in study.attacks:
        jobs[f"attack {attack}"] = study.attack_part("letters", attack)
    for attack in (*study.distances.attacks, "clean"):
        jobs[f"distance {attack}"] = study.distance_part("letters", attack)
    return {job: json.dumps(part) for job, part in jobs.items()}


TRAINING = {"train plain", "train warped", "train hardened", "train on_manifold"}
ATTACKS = {"attack warps", "attack pixels", "attack codes"}
DISTANCES = {"distance pixels", "distance codes", "distance clean"}


def test_parts() -> None:
    jobs = {job: json.loads(part) for job, part in parts(Study.parse(valid())).items()}
    classifier = {
        "architecture": "convnet",
        "epochs": 20,
        "batch_size": 100,
        "rate": 0.01,
        "rate_decay": 0.95,
        "weight_decay": 1e-4,
    }
    assert set(jobs) == {"fonts", "codes"} | TRAINING | ATTACKS | DISTANCES
    assert jobs["fonts"] == {"fonts": 5, "letters": "AB"}
    assert jobs["codes"] == {
        "study_seed": 0,
        "dataset": "letters",
        "fonts": 5,
        "letters": "AB",
        "transformations": "hard",
        "train_draws": 6,
        "test_draws": 2,
    }
    assert jobs["train plain"] == {
        "study_seed": 0,
        "dataset": "letters",
        "method": "plain",
        "classifier": classifier,
        "threat": None,
        "search": None,
    }
    assert jobs["train hardened"] == {
        "study_seed": 0,
        "dataset": "letters",
        "method": "hardened",
        "classifier": classifier,
        "threat": {"space": "image", "norm": "linf", "radius": 0.3},
        "search": {"steps": 7, "step_rule": "adam", "step_size": 0.005},
    }
    assert jobs["attack pixels"] == {
        "study_seed": 0,
        "dataset": "letters",
        "attack": "pixels",
        "threat": {"space": "image", "norm": "linf", "radius": 0.3},
        "search": {"steps": 40, "step_rule": "adam", "step_size": 0.005, "restarts": 2},
        "examples": 10,
    }
    for job in DISTANCES:
        assert jobs[job] == {"examples": 8, "steps": 200, "step_size": 0.05, "neighbours": 3}


@pytest.mark.parametrize(
    ("keys", "value", "altered"),
    [
        (("study",), "other", set()),
        (("seed",), 1, {"codes"} | TRAINING | ATTACKS),
        (("seeds",), 6, set()),
        (("sizes",), [20, 40, 60], set()),
        (("datasets", "letters", "fonts"), 6, {"fonts", "codes"}),
        (("datasets", "letters", "fonts_from"), str(CONFIGS), set()),
        (("datasets", "letters", "letters"), "XY", {"fonts", "codes"}),
        (("datasets", "letters", "transformations"), "easy", {"codes"}),
        (("datasets", "letters", "train_draws"), 7, {"codes"}),
        (("datasets", "letters", "test_draws"), 3, {"codes"}),
        (("datasets", "others"), {"kind": "fonts", "letters": "AB"}, set()),
        (("classifier",), {"epochs": 2}, TRAINING),
        (("classifier",), {"batch_size": 50}, TRAINING),
        (("threats", "ball", "radius"), 0.1, {"train hardened", "attack pixels"}),
        (("threats", "manifold", "norm"), "linf", {"train on_manifold", "attack codes"}),
        (("threats", "warp", "radius"), 0.1, {"train warped", "attack warps"}),
        (("methods", "hardened", "steps"), 8, {"train hardened"}),
        (("methods", "on_manifold", "step_rule"), "adam", {"train on_manifold"}),
        (("methods", "warped", "threat"), "ball", {"train warped"}),
        (("methods", "further"), {"threat": "ball"}, {"train further"}),
        (("attacks", "pixels", "restarts"), 3, {"attack pixels"}),
        (("attacks", "pixels", "examples"), 11, {"attack pixels"}),
        (("attacks", "codes", "threat"), "ball", {"attack codes"}),
        (("attacks", "further"), {"threat": "ball"}, {"attack further"}),
        (("distances", "examples"), 9, DISTANCES),
        (("distances", "neighbours"), 4, DISTANCES),
        (("distances", "methods"), ["plain", "hardened"], set()),
        (("distances", "attacks"), ["pixels", "codes", "warps"], {"distance warps"}),
        (("seed",), 0, set()),
        (("threats", "manifold", "radius"), 1.0, set()),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_change_alters_only_the_parts_that_use_it(
    keys: Keys, value: Any, altered: set[str]
) -> None:
    config = valid()
    if keys == ("distances", "attacks"):
        config["distances"]["examples"] = 5
    before = parts(Study.parse(config))
    after = parts(Study.parse(changed((keys, value), config=config)))
    assert {job for job in after if after[job] != before.get(job)} == altered


def test_downloads_are_the_machines_and_in_no_part() -> None:
    clothes = (("datasets",), {"clothes": {"kind": "fashion_mnist", "transformations": "easy"}})
    config = changed(*MANIFOLD_OUT, clothes)
    study = Study.parse(config)
    moved = Study.parse({**config, "downloads": {"folder": "/data", "mirror": "http://nearby"}})
    assert study.downloads.model_dump() == {"folder": "data", "mirror": None}
    assert study.resolved() == moved.resolved()
    part = {"study_seed": 0, "dataset": "clothes", "kind": "fashion_mnist"}
    assert moved.images_part("clothes") == {**part, "transformations": "easy"}


def test_parts_of_what_is_not_in_the_study_are_errors() -> None:
    study = Study.parse(valid())
    for part in (
        lambda: study.fonts_part("x"),
        lambda: study.codes_part("x"),
        lambda: study.images_part("x"),
        lambda: study.training_part("letters", "x"),
        lambda: study.attack_part("letters", "x"),
        lambda: study.distance_part("letters", "warps"),
        lambda: study.distance_part("x", "clean"),
    ):
        with pytest.raises(KeyError):
            part()


def test_the_config_is_left_as_it_was_and_the_study_is_frozen() -> None:
    config = valid()
    study = Study.parse(config)
    assert config == valid()
    with pytest.raises(ValueError, match="frozen"):
        study.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["images", "npz", "fonts"])
def test_the_place_of_files_is_in_no_part_but_in_the_record(kind: str, tmp_path: Path) -> None:
    """The same files under two paths make the same parts."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 28, 28), np.uint8)
    studies = []
    for name in ("here", "there"):
        folder = tmp_path / name
        for number, image in enumerate(pixels):
            (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / "ab"[number % 2] / f"{number}.png")
        np.savez(folder / "mine.npz", images=pixels, labels=np.arange(60) % 2)
        path = str(folder / "mine.npz" if kind == "npz" else folder)
        data = {"kind": kind, "path": path}
        if kind == "fonts":
            data = {**valid()["datasets"]["letters"], "fonts_from": path}
        studies.append(Study.parse(changed((("datasets", "letters"), data), *MANIFOLD_OUT)))
    here, there = studies
    assert kind == "fonts" or here.datasets["letters"].signature() == (
        there.datasets["letters"].signature()
    )
    part = Study.fonts_part if kind == "fonts" else Study.images_part
    assert part(here, "letters") == part(there, "letters")
    assert str(tmp_path) not in json.dumps(part(here, "letters"))
    assert here.resolved() != there.resolved()
