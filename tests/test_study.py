"""Valid configs: defaults, sizes, cohorts, roles, and the configs of the project."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from studies import CONFIGS, MANIFOLD_OUT, OUT, changed, refused, valid

from robustgen.config.job_params import vaegan_params
from robustgen.config.roles import find_on_manifold, find_roles
from robustgen.config.study import Study
from robustgen.errors import UserError


def test_missing_keys_have_their_defaults() -> None:
    config = {
        "study": "s",
        "sizes": [250],
        "datasets": {"fonts": {"kind": "fonts"}},
        "threats": {
            "ball": {"space": "image", "norm": "linf", "radius": 1},
            "warp": {"space": "transformation", "norm": "l2", "radius": 2},
        },
        "methods": {"plain": {}, "hardened": {"threat": "ball"}},
        "attacks": {"warps": {"threat": "warp"}, "pixels": {"threat": "ball"}},
    }
    search = {"steps": 40, "loss": "cross_entropy", "step_rule": "adam", "step_size": 0.005}
    attack = {**search, "restarts": 1, "examples": 1000}
    assert Study.parse(config).to_config() == {
        **config,
        "seed": 0,
        "seeds": 5,
        "cohort_size": 5,
        "datasets": {
            "fonts": {
                "kind": "fonts",
                "fonts": 1000,
                "font_source": "installed",
                "letters": "ABCDEFGHIJ",
                "transformations": "hard",
                "train_images_per_glyph": 96,
                "test_images_per_glyph": 16,
            }
        },
        "classifier": {
            "architecture": "convnet",
            "epochs": 20,
            "batch_size": 100,
            "learning_rate": 0.01,
            "learning_rate_decay": 0.95,
            "weight_decay": 1e-4,
        },
        "methods": {"plain": {}, "hardened": {"threat": "ball", **search}},
        "attacks": {"warps": {"threat": "warp", **attack}, "pixels": {"threat": "ball", **attack}},
        "distances": {
            "methods": ["plain"],
            "attacks": ["pixels"],
            "examples": 200,
            "steps": 200,
            "step_size": 0.05,
            "neighbours": 50,
        },
    }


def test_defaults_shrink_with_the_study() -> None:
    # 40 train images, 20 test images
    small = (("datasets", "letters", "train_images_per_glyph"), 4)
    study = Study.parse(
        changed(small, (("distances",), OUT), (("attacks", "codes", "examples"), OUT))
    )
    assert study.attacks["codes"].examples == 20
    assert study.distances.examples == 10  # as many as attacked by `pixels`
    assert study.distances.neighbours == 39
    assert study.distances.attacks == ("pixels", "codes")


def test_distances_of_all_methods_are_measured_if_each_has_a_threat() -> None:
    study = Study.parse(changed((("methods", "plain"), OUT), (("distances",), OUT)))
    assert study.distances.methods == ("warped", "hardened", "on_manifold")


def test_a_study_may_measure_no_distances() -> None:
    study = Study.parse(changed((("distances",), {"attacks": []})))
    assert study.distances.attacks == ()
    assert study.distances.examples == 20


def test_a_data_set_has_its_number_of_classes_and_images() -> None:
    letters = Study.parse(valid()).datasets["letters"]
    assert (letters.classes, letters.train_examples, letters.test_examples) == (2, 60, 20)


@pytest.mark.parametrize(
    ("kind", "sizes", "megabytes"),
    [
        ("emnist", (10, 240_000, 40_000), 220),
        ("fashion_mnist", (10, 60_000, 10_000), 55),
        ("celeba", (2, 136_522, 15_430), 1226),
    ],
)
def test_public_data_sets_have_their_number_of_classes_and_images(
    kind: str, sizes: tuple[int, int, int], megabytes: int
) -> None:
    config = changed(*MANIFOLD_OUT, (("datasets",), {"public": {"kind": kind}}))
    dataset = Study.parse(config).datasets["public"]
    assert (dataset.classes, dataset.train_examples, dataset.test_examples) == sizes
    assert dataset.megabytes == megabytes
    assert not dataset.has_true_manifold
    assert dataset.signature() == ""
    assert refused({**config, "sizes": [sizes[1] + sizes[0]]}).endswith(
        f"must be at most {sizes[1]}, the number of training images of datasets.public"
    )


@pytest.mark.parametrize(
    ("seeds", "cohort_size", "cohorts"),
    [
        (1, 5, [(0, 0)]),
        (3, 5, [(0, 2)]),
        (5, 5, [(0, 4)]),
        (10, 5, [(0, 4), (5, 9)]),
        (3, 1, [(0, 0), (1, 1), (2, 2)]),
    ],
)
def test_seeds_are_divided_into_cohorts(
    seeds: int, cohort_size: int, cohorts: list[tuple[int, int]]
) -> None:
    study = Study.parse(changed((("seeds",), seeds), (("cohort_size",), cohort_size)))
    assert study.cohorts() == cohorts


def test_paths_in_the_home_folder_are_recorded_as_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "fonts").mkdir()
    fonts = (("datasets", "letters", "font_source"), "~/fonts")
    downloads = (("downloads",), {"folder": "~/data", "mirror": "~/mirror"})
    study = Study.parse(changed(fonts, downloads))
    assert study.to_config()["datasets"]["letters"]["font_source"] == "~/fonts"
    assert study.downloads.model_dump() == {"folder": "~/data", "mirror": "~/mirror"}


def test_roles_are_found_by_the_spaces_of_threats() -> None:
    assert find_roles(Study.parse(valid())) == {
        "normal": "plain",
        "adversarial": "hardened",
        "adversarial_methods": ["hardened"],
        "regular_attack": "pixels",
        "regular_attacks": {"pixels": "L∞ radius 0.3"},
        "strong_attacks": ["pixels"],
        "minimal_attacks": {},
        "robust_pairs": [("hardened", "pixels")],
        "not_adversarial": ["plain", "warped", "on_manifold"],
    }


def test_methods_without_a_search_have_no_role() -> None:
    methods = {
        "noisy": {"threat": "ball", "steps": 0},
        "augmented": {"threat": "manifold", "steps": 0},
    }
    config = changed((("methods",), methods), (("attacks",), {"warps": {"threat": "warp"}}))
    del config["distances"]
    roles = find_roles(Study.parse(config))
    assert roles.pop("not_adversarial") == ["augmented"]
    assert not any(roles.values())


def test_ensembles_are_the_strong_attacks_and_pairs_have_the_same_radius() -> None:
    """A plain attack of the same radius is not strong, and other norms are other threats."""
    strong = {"members": ["random"], "examples": 5}
    config = changed(
        (("threats", "small"), {"space": "image", "norm": "linf", "radius": 0.1}),
        (("threats", "round"), {"space": "image", "norm": "l2", "radius": 0.1}),
        (("methods", "small"), {"threat": "small"}),
        (("attacks", "strong"), {"threat": "ball", **strong}),
        (("attacks", "strong_small"), {"threat": "small", **strong}),
        (("attacks", "strong_round"), {"threat": "round", **strong}),
    )
    roles = find_roles(Study.parse(config))
    assert roles["regular_attack"] == "pixels"
    assert list(roles["regular_attacks"]) == ["pixels", "strong", "strong_small", "strong_round"]
    assert roles["regular_attacks"]["strong_round"] == "L2 radius 0.1"
    assert roles["strong_attacks"] == ["strong", "strong_small", "strong_round"]
    assert roles["adversarial_methods"] == ["hardened", "small"]
    assert roles["robust_pairs"] == [("hardened", "strong"), ("small", "strong_small")]


MISFITS = {
    "another norm": ("ball", "round_search", "the step rule carlini_wagner of round_search needs"),
    "members of its own": ("ball", "other", "other has members of its own"),
}


@pytest.mark.parametrize(("threat", "member", "reason"), MISFITS.values(), ids=MISFITS)
def test_a_member_that_does_not_fit_is_refused_with_its_reason(threat, member, reason) -> None:
    config = changed(
        (("threats", "any_round"), {"space": "image", "norm": "l2"}),
        (("attacks", "round_search"), {"threat": "any_round", "step_rule": "carlini_wagner"}),
        (("attacks", "other"), {"threat": threat, "members": ["random"]}),
        (("attacks", "strong"), {"threat": threat, "members": [member]}),
    )
    with pytest.raises(UserError, match=rf"attacks\.strong\.members\[0\] is .*: {reason}"):
        Study.parse(config)


def shipped(name: str) -> dict[str, Any]:
    """Read a config of the project."""
    return yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [path.name for path in CONFIGS.glob("*.yaml")])
def test_the_configs_of_the_project_are_valid_and_state_every_default(name: str) -> None:
    config = shipped(name)
    study = Study.parse(config)
    assert study.to_config() == config
    assert all(find_roles(study).values())
    for dataset, data in study.datasets.items():
        rows = find_on_manifold(study, dataset)
        for row in rows:
            assert all(row.values()) or row["manifold"] == "data_manifold"
        true_manifolds = ["true_manifold"] * data.has_true_manifold
        manifolds = [row["manifold"] for row in rows]
        assert manifolds == true_manifolds + study.learned_manifolds(dataset)


def test_the_config_of_the_paper_has_the_settings_of_the_paper() -> None:
    study = Study.parse(shipped("paper.yaml"))
    fonts = study.datasets["fonts"]
    assert (fonts.train_examples, fonts.test_examples) == (960_000, 160_000)
    assert study.sizes == (250, 500, 1000, 2500, 5000, 10_000, 20_000, 40_000)
    assert study.cohorts() == [(0, 4)]
    added = {"regular_small", "regular_tenth"}  # not in the paper, and those without a radius
    radii = {
        name: (threat.norm, threat.radius)
        for name, threat in study.threats.items()
        if threat.radius is not None and name not in added
    }
    assert radii.pop("on_data_manifold") == ("linf", 0.1)
    assert set(radii.values()) == {("linf", 0.3)}
    betas = {
        name: [vaegan_params(study, name, f"class{k}")["recipe"]["beta"] for k in range(10)]
        for name in study.datasets
    }
    digits = [2.25, 5.0, *[2.25] * 5, 3.0, 2.25, 2.25]
    assert betas == {"fonts": [3.0] * 10, "digits": digits, "clothes": [2.75] * 10}
    assert {vaegan_params(study, n, "all")["recipe"]["beta"] for n in study.datasets} == {3.0}
    assert [study.manifolds[name].epochs for name in study.datasets] == [10, 30, 30]
    faces = Study.parse(shipped("celeba.yaml"))
    assert vaegan_params(faces, "faces", "all")["recipe"].pop("beta") == 3.0
    for paper_study, latent_dim in ((study, 10), (faces, 25)):
        for name, manifold in paper_study.manifolds.items():
            assert manifold.latent_dim == latent_dim, name
            assert manifold.channels == (64, 128, 256)
            assert (manifold.gamma, manifold.weight_decay) == (1.0, 1e-4)
            assert (manifold.learning_rate, manifold.learning_rate_decay) == (0.005, 0.9)
            assert manifold.batch_size == 100
    attacks = [a for a in study.attacks.values() if not a.members and not a.is_minimal]
    assert len(attacks) == 5
    assert {a.examples for a in attacks} == {1000, 2500}
    assert {(a.steps, a.step_size) for a in attacks} == {(40, 0.005)}
    assert study.attacks["carlini_wagner"].steps == 120
    assert study.threats[study.attacks["carlini_wagner"].threat].norm == "l2"


def test_importing_the_config_does_not_import_torch() -> None:
    code = "import sys, robustgen.config.study; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
