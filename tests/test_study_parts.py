"""The params of each job contain the settings that the job uses, and no others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from studies import CONFIGS, MANIFOLD_OUT, Keys, changed, valid

from robustgen.config.job_params import (
    attack_params,
    codes_params,
    distance_params,
    images_params,
    prototypes_params,
    training_params,
)
from robustgen.config.study import Study


def params_of_jobs(study: Study) -> dict[str, str]:
    """Return the params of all jobs as JSON, in which 1 and 1.0 differ."""
    jobs = {"fonts": prototypes_params(study, "letters"), "codes": codes_params(study, "letters")}
    for method in study.methods:
        jobs[f"train {method}"] = training_params(study, "letters", method)
    for attack in study.attacks:
        jobs[f"attack {attack}"] = attack_params(study, "letters", attack)
    for attack in (*study.distances.attacks, "clean"):
        jobs[f"distance {attack}"] = distance_params(study, "letters", attack)
    return {job: json.dumps(params) for job, params in jobs.items()}


TRAINING = {"train plain", "train warped", "train hardened", "train on_manifold"}
ATTACKS = {"attack warps", "attack pixels", "attack codes"}
DISTANCES = {"distance pixels", "distance codes", "distance clean"}


def test_params_of_jobs() -> None:
    texts = params_of_jobs(Study.parse(valid()))
    jobs = {job: json.loads(text) for job, text in texts.items()}
    classifier = {
        "architecture": "convnet",
        "epochs": 20,
        "batch_size": 100,
        "learning_rate": 0.01,
        "learning_rate_decay": 0.95,
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
        "train_images_per_glyph": 6,
        "test_images_per_glyph": 2,
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
        "search": {"steps": 7, "loss": "cross_entropy", "step_rule": "adam", "step_size": 0.005},
    }
    assert jobs["attack pixels"] == {
        "study_seed": 0,
        "dataset": "letters",
        "attack": "pixels",
        "threat": {"space": "image", "norm": "linf", "radius": 0.3},
        "search": {
            "steps": 40,
            "loss": "cross_entropy",
            "step_rule": "adam",
            "step_size": 0.005,
            "restarts": 2,
        },
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
        (("datasets", "letters", "font_source"), str(CONFIGS), set()),
        (("datasets", "letters", "letters"), "XY", {"fonts", "codes"}),
        (("datasets", "letters", "transformations"), "easy", {"codes"}),
        (("datasets", "letters", "train_images_per_glyph"), 7, {"codes"}),
        (("datasets", "letters", "test_images_per_glyph"), 3, {"codes"}),
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
def test_a_change_alters_only_the_params_of_jobs_that_use_it(
    keys: Keys, value: Any, altered: set[str]
) -> None:
    config = valid()
    if keys == ("distances", "attacks"):
        config["distances"]["examples"] = 5
    old_params = params_of_jobs(Study.parse(config))
    new_params = params_of_jobs(Study.parse(changed((keys, value), config=config)))
    assert {job for job in new_params if new_params[job] != old_params.get(job)} == altered


def test_the_place_of_downloads_is_in_no_params() -> None:
    clothes = (("datasets",), {"clothes": {"kind": "fashion_mnist", "transformations": "easy"}})
    config = changed(*MANIFOLD_OUT, clothes)
    study = Study.parse(config)
    downloads = {"folder": "/data", "mirror": "http://nearby"}
    other_study = Study.parse({**config, "downloads": downloads})
    assert study.downloads.model_dump() == {"folder": "data", "mirror": None}
    assert study.to_config() == other_study.to_config()
    names = {"study_seed": 0, "dataset": "clothes", "kind": "fashion_mnist"}
    assert images_params(other_study, "clothes") == {**names, "transformations": "easy"}


def test_params_of_unknown_names_raise_a_key_error() -> None:
    study = Study.parse(valid())
    for make_params in (
        lambda: prototypes_params(study, "x"),
        lambda: codes_params(study, "x"),
        lambda: images_params(study, "x"),
        lambda: training_params(study, "letters", "x"),
        lambda: attack_params(study, "letters", "x"),
        lambda: distance_params(study, "letters", "warps"),
        lambda: distance_params(study, "x", "clean"),
    ):
        with pytest.raises(KeyError):
            make_params()


def test_parsing_does_not_change_the_config_and_the_study_is_frozen() -> None:
    config = valid()
    study = Study.parse(config)
    assert config == valid()
    with pytest.raises(ValueError, match="frozen"):
        study.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["images", "npz", "fonts"])
def test_the_place_of_files_is_in_the_record_but_in_no_params(kind: str, tmp_path: Path) -> None:
    """The same files under two paths give the same params."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 28, 28), np.uint8)
    studies = []
    for name in ("one", "two"):
        folder = tmp_path / name
        for number, image in enumerate(pixels):
            (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / "ab"[number % 2] / f"{number}.png")
        np.savez(folder / "mine.npz", images=pixels, labels=np.arange(60) % 2)
        path = str(folder / "mine.npz" if kind == "npz" else folder)
        data = {"kind": kind, "path": path}
        if kind == "fonts":
            data = {**valid()["datasets"]["letters"], "font_source": path}
        studies.append(Study.parse(changed((("datasets", "letters"), data), *MANIFOLD_OUT)))
    study, other_study = studies
    if kind != "fonts":
        signatures = [study.datasets["letters"].signature() for study in studies]
        assert signatures[0] == signatures[1]
    make_params = prototypes_params if kind == "fonts" else images_params
    assert make_params(study, "letters") == make_params(other_study, "letters")
    assert str(tmp_path) not in json.dumps(make_params(study, "letters"))
    assert study.to_config() != other_study.to_config()
