"""The plan of a study: which jobs, and how long each."""

import subprocess
import sys

import pytest
import torch
import yaml
from conftest import HERE, environment, snakemake, wanted

from robustgen import plan
from robustgen.speeds import (
    IMAGES,
    STEPS,
    OnDataset,
    Speeds,
    _cohort,
    _learning,
    _random,
    lacks,
    measure,
)
from robustgen.study import Study

SPEED = OnDataset(
    learned=1e-4,
    trained={
        "image": 2e-5,
        "true_manifold": 3e-5,
        "transformation": 4e-5,
        "learned_manifold": 5e-5,
    },
    searched={
        "image": 1e-5,
        "true_manifold": 2e-5,
        "transformation": 3e-5,
        "learned_manifold": 4e-5,
    },
    vaegan=1e-3,
    approached={"true_manifold": 1e-4, "learned_manifold": 3e-4},
)
SPEEDS = Speeds(machine="a machine", start=2.0, datasets={"fonts": SPEED})
SEEDS = {"dataset": "fonts", "first": "0", "last": "2"}
"""A cohort of three."""


@pytest.fixture(scope="module")
def demo() -> Study:
    return Study.parse(yaml.safe_load((HERE / "config" / "config.yaml").read_text()))


@pytest.mark.parametrize(
    ("rule", "of", "expected"),
    [
        ("train", {"method": "normal", "n": "500"}, 3 * 500 * 20 * 1e-4),
        # half of each batch, three steps and a look at the last codes
        ("train", {"method": "adversarial", "n": "500"}, 3 * 500 * 20 * (1e-4 + 2 * 2e-5)),
        ("train", {"method": "transformation", "n": "500"}, 3e4 * (1e-4 + 2 * 4e-5)),
        ("judge", {}, 40_000 * 3 * 1e-4),
        ("vaegan", {"part": "class3"}, 19_200 * 7 * 1e-3),
        ("attack", {"attack": "regular_tenth", "method": "normal"}, 3 * 300 * 20 * 1e-5),
        ("attack", {"attack": "on_learned_manifold", "method": "normal"}, 3 * 300 * 40 * 4e-5),
        ("distances", {"attack": "regular", "method": "normal"}, 3 * 50 * 100 * 4e-4),
        ("figure2", {}, 0),
    ],
)
def test_what_a_job_takes(demo, rule, of, expected):
    one = {"dataset": "fonts"} if rule in ("judge", "vaegan", "figure2") else SEEDS
    assert plan.seconds(demo, SPEEDS, rule, one | of) == pytest.approx(expected)


def test_jobs_are_those_of_snakemake(demo, tmp_path):
    run = snakemake(tmp_path, "--dry-run", config=HERE / "config" / "config.yaml")
    listed = list(plan.jobs(run.stdout + run.stderr))
    counts = {rule: [name for name, _ in listed].count(rule) for rule, _ in listed}
    assert counts == wanted(run)
    cohorts = {(of["method"], of["n"]) for rule, of in listed if rule == "train"}
    assert cohorts == {(m, str(n)) for m in demo.methods_of("fonts") for n in demo.sizes}
    said = plan.told(demo, SPEEDS, listed, 4).splitlines()
    assert said[0] == "demo on a machine"
    minutes = [float(line.split()[-1]) for line in said[2:-1]]
    assert sum(minutes[:-1]) == pytest.approx(minutes[-1], abs=0.1 * len(minutes))
    total = sum(SPEEDS.start + plan.seconds(demo, SPEEDS, *job) for job in listed) / 60
    assert said[-2].split() == ["all", str(len(listed)), f"{total:.1f}"]
    assert said[-1] == f"{total / 4:.1f} minutes with 4 jobs at a time"
    starts = len(listed) * SPEEDS.start / 60
    shared = plan.told(demo, SPEEDS.model_copy(update={"shared": True}), listed, 4).splitlines()
    assert shared[-1] == f"{total - starts * 3 / 4:.1f} minutes with 4 jobs at a time"


def test_speeds_are_measured_and_taken_elsewhere(demo, tmp_path, monkeypatch):
    monkeypatch.setattr("robustgen.speeds.IMAGES", 60)  # fewer than deserve trust
    study = Study.parse({**demo.resolved(), "seeds": 1, "cohort_size": 1})
    found = measure(study, torch.device("cpu"))
    on = found.datasets["fonts"]
    assert set(on.trained) == set(on.searched) >= set(SPEED.searched)
    assert set(on.approached) == set(SPEED.approached)
    parts = (on.trained, on.searched, on.approached)
    taken = [found.start, on.learned, on.vaegan, *(v for part in parts for v in part.values())]
    assert all(0 < value < 60 for value in taken)
    path = tmp_path / "speeds.json"
    path.write_text(found.model_dump_json())
    assert plan._speeds(path, study) == found


@pytest.mark.parametrize(
    ("normal", "attacked", "learned", "trained"),
    [
        (0.03, 0.09, 1e-4, 0.06 / 150 / (STEPS + 1)),  # a quiet hour
        (0.0, 0.09, 1e-5, 0.09 / 150 / (STEPS + 1)),  # one epoch took as long as more
        (-0.01, -0.01, 1e-5, 2e-5),
        (0.03, 0.0303, 1e-4, 0.0003 / 150 / (STEPS + 1)),  # on a GPU less than in an attack
        (0.09, 0.08, 3e-4, 2e-5),  # normal training met with more other work
    ],
)
def test_speeds_beside_other_work(normal, attacked, learned, trained, monkeypatch):
    shape, searched = (1, 28, 28), {"image": 1e-5, "true_manifold": 2e-5}
    cohort, rngs = _cohort(shape, 10, 1, torch.device("cpu"))
    data = _random(shape, 10, torch.device("cpu"))
    assert len(data) == IMAGES == 300
    monkeypatch.setattr("robustgen.speeds._epoch", lambda *of: attacked if of[2] else normal)
    monkeypatch.setattr("robustgen.speeds._search", lambda *of: searched[of[2]])
    found = _learning(cohort, data, rngs, searched)
    assert found[0] == pytest.approx(learned)
    assert found[1]["true_manifold"] == pytest.approx(trained)


@pytest.mark.parametrize(
    ("part", "lacking"),
    [
        ({"trained": {}}, "in the space image on fonts"),
        ({"searched": {"image": 1e-5}}, "in the space learned_manifold on fonts"),
        ({"vaegan": 0.0}, "of VAE-GANs on fonts"),
        ({"approached": {"true_manifold": 1e-4}}, "towards the learned_manifold on fonts"),
        ({}, None),
    ],
)
def test_speeds_that_lack_what_a_study_asks_for(demo, part, lacking):
    fonts = SPEED.model_copy(update=part)
    speeds = SPEEDS.model_copy(update={"datasets": {"fonts": fonts}})
    assert next(lacks(demo, speeds), None) == lacking


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--cores", "0"], "robustgen: --cores is 0, but must be 1 or more"),
        (["--configfile", "no.yaml"], "robustgen: the config no.yaml cannot be read: No such file"),
        (["--speeds", "no.json"], "robustgen: no.json holds no speeds as --write-speeds writes"),
        (["--write-speeds", "README.md/a"], "robustgen: README.md cannot be written: File exists"),
        (
            ["--write-speeds", "tests"],
            "robustgen: tests is a folder, but --write-speeds names",
        ),
        (
            ["--write-speeds", "a.json", "--speeds", "benchmarks/h200.json"],
            "robustgen: --write-speeds measures this machine: leave out --speeds",
        ),
        (
            ["--speeds", "benchmarks/h200.json"],
            "robustgen: benchmarks/h200.json has no speed of VAE-GANs on fonts, but must have it "
            "for the study demo; measure them with its config and --write-speeds",
        ),
        (
            ["--speeds", "benchmarks/h200.json", "--configfile", "config/fashion.yaml"],
            "robustgen: benchmarks/h200.json has no speed of the data set clothes, but must",
        ),
    ],
)
def test_mistakes_are_one_sentence(args, sentence):
    run = subprocess.run(
        [sys.executable, "-m", "robustgen.plan", *args],
        capture_output=True,
        text=True,
        cwd=HERE,
        env=environment(),
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.startswith(sentence)
    assert len(run.stderr.splitlines()) == 1


def test_the_speeds_of_a_gpu_plan_the_grid_of_the_paper():
    study = Study.parse(yaml.safe_load((HERE / "config" / "paper_fonts.yaml").read_text()))
    speeds = plan._speeds(HERE / "benchmarks" / "h200.json", study)
    assert speeds.shared
    one = {"dataset": "fonts", "first": "0", "last": "4", "n": "40000"}
    for method in study.methods_of("fonts"):
        assert 0 < plan.seconds(study, speeds, "train", one | {"method": method}) < 600
    for attack in study.attacks:
        assert 0 < plan.seconds(study, speeds, "attack", one | {"attack": attack}) < 600
