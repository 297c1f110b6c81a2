"""The plan of a study: which jobs, and how long each."""

import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import yaml
from conftest import HERE, environment, snakemake, wanted

from robustgen.attacks.spaces import SPACES
from robustgen.config.study import Study
from robustgen.config.yaml_files import read_merged
from robustgen.errors import UserError
from robustgen.jobs import plan
from robustgen.jobs.speed_records import OnDataset, Speeds, describe_missing_speeds
from robustgen.jobs.speeds import (
    EPOCHS,
    IMAGES,
    STEPS,
    _cohort,
    _epoch,
    _learning,
    _random,
    _seconds,
    _standin,
    measure,
)

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
    said = plan.format_plan(demo, SPEEDS, listed, 4).splitlines()
    assert said[0] == "demo on a machine"
    minutes = [float(line.split()[-1]) for line in said[2:-1]]
    assert sum(minutes[:-1]) == pytest.approx(minutes[-1], abs=0.1 * len(minutes))
    total = sum(SPEEDS.start + plan.seconds(demo, SPEEDS, *job) for job in listed) / 60
    assert said[-2].split() == ["all", str(len(listed)), f"{total:.1f}"]
    assert said[-1] == f"{total / 4:.1f} minutes with 4 jobs at a time"
    starts = len(listed) * SPEEDS.start / 60
    shared = plan.format_plan(
        demo, SPEEDS.model_copy(update={"shared": True}), listed, 4
    ).splitlines()
    assert shared[-1] == f"{total - starts * 3 / 4:.1f} minutes with 4 jobs at a time"


def test_speeds_are_measured_and_taken_elsewhere(demo, tmp_path, monkeypatch):
    monkeypatch.setattr("robustgen.jobs.speeds.IMAGES", 60)  # fewer than deserve trust
    study = Study.parse({**demo.to_config(), "seeds": 1, "cohort_size": 1})
    messages: list[str] = []
    found = measure(study, torch.device("cpu"), messages.append)
    parts = ("VAE-GANs", "attacks", "training", "distances")
    assert messages == [
        "measuring how long a job takes to start",
        *(f"measuring the speed of fonts (1 of 1): {part}" for part in parts),
    ]
    on = found.datasets["fonts"]
    assert set(on.trained) == set(on.searched) >= set(SPEED.searched)
    assert set(on.approached) == set(SPEED.approached)
    parts = (on.trained, on.searched, on.approached)
    taken = [found.start, on.learned, on.vaegan, *(v for part in parts for v in part.values())]
    assert all(value > 0 for value in taken)
    path = tmp_path / "speeds.json"
    path.write_text(found.model_dump_json())
    assert plan._speeds(path, study) == found


COSTS = OnDataset(
    learned=1e-3,
    trained={space: 1e-5 * (i + 1) for i, space in enumerate(sorted(SPACES))},
    searched={space: 1e-6 * (i + 1) for i, space in enumerate(sorted(SPACES))},
    vaegan=0.25,
    approached={"true_manifold": 1e-4, "learned_manifold": 3e-4},
)
"""Seconds of each unit of work on the clock of the next test."""
FIXED_COST = 0.5
"""Seconds of each call on that clock, however much work it does: compiling, for example."""


def test_speeds_are_seconds_per_unit_of_work(demo, monkeypatch):
    """Every kind of work takes the time that it is said to take; its measurement must say so."""
    clock = [0.0]

    def start_job(*_, **__):
        clock[0] += 2.0

    def search(_cohort, _space, labels, threat, settings, *_, **__):
        steps = settings.restarts * (settings.steps + 1)
        clock[0] += COSTS.searched[threat.space] * labels.numel() * steps

    def train(cohort, data, schedule, method, *_):
        per_image = COSTS.learned
        if method is not None:
            steps = method.search.restarts * (method.search.steps + 1)
            per_image += COSTS.trained[method.threat.space] * steps / 2
        images = len(data) * len(cohort.seeds) * schedule.epochs
        clock[0] += FIXED_COST + per_image * images

    def train_vaegan(model, data, *_, **__):
        model.eval()
        clock[0] += COSTS.vaegan * len(data) * model.config.epochs

    def measure_distance(examples, _clean, space, *, steps, **_):
        clock[0] += COSTS.approached[space] * len(examples) * (steps + 1)

    work = {"run_search": search, "train": train, "train_vaegan": train_vaegan}
    for name, function in {**work, "measure_to_manifold": measure_distance}.items():
        monkeypatch.setattr(f"robustgen.jobs.speeds.{name}", function)
    monkeypatch.setattr("robustgen.jobs.speeds.subprocess.run", start_job)
    monkeypatch.setattr("robustgen.jobs.speeds.time.perf_counter", lambda: clock[0])
    speeds = measure(demo, torch.device("cpu"), lambda _: None)
    measured = speeds.datasets["fonts"]
    assert speeds.start == pytest.approx(2.0)
    assert measured.learned == pytest.approx(COSTS.learned)
    assert measured.vaegan == pytest.approx(COSTS.vaegan)
    for kind in ("trained", "searched", "approached"):
        per_space = getattr(measured, kind)
        expected = {space: getattr(COSTS, kind)[space] for space in per_space}
        assert per_space == pytest.approx(expected), kind


RUNS = {
    "short": ([9.0, 3.0, 2.0, 4.0], 2.0, 4),
    "long": ([9.0, 7.0, 5.0, 1.0], 5.0, 3),
    "very long": ([90.0, 60.0], 60.0, 2),
}


@pytest.mark.parametrize(("durations", "least", "count"), RUNS.values(), ids=RUNS)
def test_long_runs_are_repeated_less_often(monkeypatch, durations, least, count):
    clock, remaining = [0.0], list(durations)
    monkeypatch.setattr("robustgen.jobs.speeds.time.perf_counter", lambda: clock[0])

    def run():
        clock[0] += remaining.pop(0)

    assert _seconds(run) == least
    assert len(remaining) == len(durations) - count


def test_a_long_run_needs_no_warm_up_of_its_own(monkeypatch):
    epochs = []
    monkeypatch.setattr(
        "robustgen.jobs.speeds._train", lambda *arguments: epochs.append(arguments[-1])
    )
    monkeypatch.setattr("robustgen.jobs.speeds.LONG_ENOUGH", 1e-9)
    _epoch(*[None] * 4)
    assert epochs == [1, 1, 1 + EPOCHS]


def test_one_learned_space_stands_for_both():
    spaces = ["data_manifold", "image", "learned_manifold"]
    standins = {space: _standin(space, spaces) for space in spaces}
    assert standins == {
        "data_manifold": "data_manifold",
        "image": "image",
        "learned_manifold": "data_manifold",
    }


@pytest.fixture
def paper() -> dict:
    """The study of the paper: FONTS, and two data sets whose images have the same shape."""
    return yaml.safe_load((HERE / "config" / "paper.yaml").read_text())


def measure_nothing(study: Study, monkeypatch) -> tuple[list[list[str]], list[str], Speeds]:
    """The groups that are measured, what is reported, and speeds that were not measured."""
    per_space = dict.fromkeys(SPACES, 1e-5)
    speed = OnDataset(
        learned=1e-4, trained=per_space, searched=per_space, vaegan=1e-3, approached=per_space
    )

    def report_one_part(*arguments):
        arguments[-1]("attacks")
        return speed

    measure_group = Mock(side_effect=report_one_part)
    monkeypatch.setattr("robustgen.jobs.speeds._measure_group", measure_group)
    monkeypatch.setattr("robustgen.jobs.speeds._seconds", Mock(return_value=2.0))
    messages: list[str] = []
    speeds = measure(study, torch.device("cpu"), messages.append)
    return [call.args[1] for call in measure_group.call_args_list], messages, speeds


def test_equal_data_sets_are_measured_once(paper, monkeypatch):
    study = Study.parse(paper)
    groups, messages, speeds = measure_nothing(study, monkeypatch)
    assert groups == [["fonts", "digits", "clothes"]]  # though betas and epochs differ
    assert messages[1:] == ["measuring the speed of fonts, digits and clothes (1 of 1): attacks"]
    assert set(speeds.datasets["fonts"].searched) == set(SPACES)
    assert set(speeds.datasets["digits"].searched) == set(SPACES) - {"true_manifold"}
    assert set(speeds.datasets["fonts"].approached) == {"true_manifold", "learned_manifold"}
    assert set(speeds.datasets["clothes"].approached) == {"learned_manifold"}
    assert list(describe_missing_speeds(study, speeds)) == []


UNEQUAL = {
    "no manifold": ("manifolds", {"digits": None}),
    "other channels": ("manifolds", {"digits": {"channels": [16, 32, 64]}}),
    "no discriminator": ("manifolds", {"digits": {"gamma": 0.0}}),
    "other classes": ("datasets", {"fonts": {"letters": "ABCDE"}}),
}


@pytest.mark.parametrize(("key", "changes"), UNEQUAL.values(), ids=UNEQUAL)
def test_unequal_data_sets_are_measured_apart(paper, monkeypatch, key, changes):
    for name, values in changes.items():
        if values is None:
            del paper[key][name]
        else:
            paper[key][name] |= values
    groups, messages, _ = measure_nothing(Study.parse(paper), monkeypatch)
    assert sorted(map(len, groups)) == [1, 2]
    assert messages[-1].endswith(" (2 of 2): attacks")


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
    monkeypatch.setattr("robustgen.jobs.speeds._epoch", lambda *of: attacked if of[2] else normal)
    monkeypatch.setattr("robustgen.jobs.speeds._search", lambda *of: searched[of[2]])
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
    assert next(describe_missing_speeds(demo, speeds), None) == lacking


FAILURES = {
    "a mistake in the config": (
        "robustgen: seeds is 0, but must be 1\nmore of Snakemake's",
        "seeds is 0, but must be 1",
    ),
    "no workflow": (
        "Error: No Snakefile found, tried Snakefile, snakefile",
        f"{Path.cwd()} has no Snakefile: run this in the folder of the project, or of the workflow "
        "that you deployed",
    ),
    "a missing file": (
        "Building DAG of jobs...\nMissingInputException in rule x, line 3:\n\n    a.png\n\n",
        "the dry run of Snakemake failed: MissingInputException in rule x, line 3: a.png",
    ),
    "an unknown option": (
        "usage: snakemake\nsnakemake: error: ambiguous option: --q\n",
        "the dry run of Snakemake failed: snakemake: error: ambiguous option: --q",
    ),
    "other words": ("killed\n \n", "the dry run of Snakemake failed: killed"),
    "nothing": ("\n", "the dry run of Snakemake failed: it gave no reason"),
}


@pytest.mark.parametrize(("output", "sentence"), FAILURES.values(), ids=FAILURES)
def test_a_failed_dry_run_is_one_sentence(output, sentence):
    assert plan._reason_of_failure(output) == sentence
    long = plan._reason_of_failure("Error: " + "a word " * 1000)
    assert len(long) < 400
    assert len(long.splitlines()) == 1


def run_plan(*options: str | Path, folder: Path = HERE, **variables: str):
    return subprocess.run(
        [sys.executable, "-m", "robustgen.jobs.plan", *map(str, options)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(**variables),
    )


def test_a_dry_run_that_fails_ends_the_plan_before_anything_is_measured(tmp_path):
    run = run_plan("--configfile", HERE / "config/smoke.yaml", folder=tmp_path)
    assert run.returncode == 1
    assert run.stderr.startswith(f"robustgen: {tmp_path} has no Snakefile: run this in the folder")
    assert len(run.stderr.splitlines()) == 1
    assert run.stdout == ""


@pytest.fixture
def speeds_file(tmp_path) -> Path:
    path = tmp_path / "my speeds.json"
    path.write_text(SPEEDS.model_dump_json())
    return path


def test_a_plan_of_several_files(tmp_path, speeds_file):
    """Later files add to the first; one may have a name with spaces."""
    more = tmp_path / "more of it.yaml"
    more.write_text(
        "study: larger\nsizes: [60, 90]\nclassifier: {epochs: 4}\nattacks: {regular: {steps: 2}}\n"
    )
    configs = ["--configfile", HERE / "config/smoke.yaml", more]
    run = run_plan(*configs, "--speeds", speeds_file)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("larger on a machine\n")
    (train,) = (line.split() for line in run.stdout.splitlines() if line.startswith("train"))
    assert train[1] == "12"  # of six methods, at two sizes
    assert "attacks.regular (2 steps of 0.05 reach 0.1 of the radius 0.3) are too few" in run.stderr


def test_merged_files_are_mappings(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- a\n")
    with pytest.raises(UserError, match=r"list\.yaml must be a mapping with keys such as study$"):
        read_merged([HERE / "config/smoke.yaml", path])


def test_ctrl_c_leaves_no_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr("robustgen.jobs.plan.measure", Mock(side_effect=KeyboardInterrupt))
    target = tmp_path / "speeds.json"
    monkeypatch.setattr("sys.argv", ["plan", "--write-speeds", str(target)])
    with pytest.raises(SystemExit) as raised:
        plan.main()
    assert raised.value.code == 130
    assert not target.exists()


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
    run = run_plan(*args)
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
