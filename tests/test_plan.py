"""Plans: the jobs of a study, how long each takes, and the speeds of a machine."""

import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import yaml
from conftest import ROOT, count_planned_jobs, environment, snakemake

from robustgen.attacks.spaces import SPACES
from robustgen.config.study import Study
from robustgen.config.yaml_files import read_merged
from robustgen.errors import UserError
from robustgen.jobs import plan
from robustgen.jobs.speed_records import DatasetSpeeds, Speeds, missing_speeds
from robustgen.jobs.speeds import (
    EPOCHS,
    IMAGES,
    STEPS,
    _equivalent_space,
    _make_cohort,
    _random_split,
    _time,
    _time_epoch,
    _time_training,
    measure,
)

SPEED = DatasetSpeeds(
    s_per_update_image=1e-4,
    s_per_training_step={
        "image": 2e-5,
        "true_manifold": 3e-5,
        "transformation": 4e-5,
        "learned_manifold": 5e-5,
    },
    s_per_attack_step={
        "image": 1e-5,
        "true_manifold": 2e-5,
        "transformation": 3e-5,
        "learned_manifold": 4e-5,
    },
    s_per_vaegan_image=1e-3,
    s_per_distance_step={"true_manifold": 1e-4, "learned_manifold": 3e-4},
)
SPEEDS = Speeds(machine="a machine", start=2.0, datasets={"fonts": SPEED})
SEEDS = {"dataset": "fonts", "first": "0", "last": "2"}
"""Wildcards of a cohort of three models."""


@pytest.fixture(scope="module")
def demo() -> Study:
    return Study.parse(yaml.safe_load((ROOT / "config" / "config.yaml").read_text()))


@pytest.mark.parametrize(
    ("rule", "wildcards", "expected"),
    [
        ("train", {"method": "normal", "n": "500"}, 3 * 500 * 20 * 1e-4),
        # half of each batch, with two steps and a last evaluation
        ("train", {"method": "adversarial", "n": "500"}, 3 * 500 * 20 * (1e-4 + 1.5 * 2e-5)),
        ("train", {"method": "on_true_manifold", "n": "500"}, 3e4 * (1e-4 + 1.5 * 3e-5)),
        ("judge", {}, 40_000 * 3 * 1e-4),
        ("vaegan", {"part": "class3"}, 19_200 * 4 * 1e-3),
        ("attack", {"attack": "regular", "method": "normal"}, 3 * 100 * 40 * 1e-5),
        # 5 times 100 steps, and 50; 1000 steps without gradients count as a third
        (
            "attack",
            {"attack": "strong", "method": "normal"},
            3 * 100 * (5 * 100 + 50 + 4 * 100 + 3 * 100 + 1000 / 3) * 1e-5,
        ),
        ("attack", {"attack": "on_learned_manifold", "method": "normal"}, 3 * 150 * 40 * 4e-5),
        ("distances", {"attack": "regular", "method": "normal"}, 3 * 30 * 80 * 4e-4),
        ("figure2", {}, 0),
    ],
)
def test_the_time_of_a_job_is_its_work_times_the_speed(demo, rule, wildcards, expected):
    common = {"dataset": "fonts"} if rule in ("judge", "vaegan", "figure2") else SEEDS
    seconds = plan.estimate_seconds(demo, SPEEDS, rule, common | wildcards)
    assert seconds == pytest.approx(expected)


@pytest.mark.slow
def test_the_plan_has_the_jobs_of_snakemake(demo, tmp_path):
    run = snakemake(tmp_path, "-n", config=ROOT / "config" / "config.yaml")
    jobs = list(plan.parse_jobs(run.stdout + run.stderr))
    rules = [rule for rule, _ in jobs]
    counts = {rule: rules.count(rule) for rule in rules}
    assert counts == count_planned_jobs(run)
    cohorts = {(wildcards["method"], wildcards["n"]) for rule, wildcards in jobs if rule == "train"}
    assert cohorts == {(method, str(n)) for method in demo.methods_of("fonts") for n in demo.sizes}
    lines = plan.format_plan(demo, SPEEDS, jobs, 4).splitlines()
    assert lines[0] == "demo on a machine"
    minutes = [float(line.split()[-1]) for line in lines[2:-1]]
    assert sum(minutes[:-1]) == pytest.approx(minutes[-1], abs=0.1 * len(minutes))
    total = sum(SPEEDS.start + plan.estimate_seconds(demo, SPEEDS, *job) for job in jobs) / 60
    assert lines[-2].split() == ["all", str(len(jobs)), f"{total:.1f}"]
    assert lines[-1] == f"{total / 4:.1f} minutes with 4 jobs at a time"
    last_line = plan.format_plan(demo, SPEEDS, jobs, 1).splitlines()[-1]
    assert last_line == f"{total:.1f} minutes with 1 job at a time"
    starts = len(jobs) * SPEEDS.start / 60
    shared_device = SPEEDS.model_copy(update={"shared": True})
    lines = plan.format_plan(demo, shared_device, jobs, 4).splitlines()
    assert lines[-1] == f"{total - starts * 3 / 4:.1f} minutes with 4 jobs at a time"


@pytest.mark.long
def test_measured_speeds_can_be_used_on_another_machine(demo, tmp_path, monkeypatch):
    monkeypatch.setattr("robustgen.jobs.speeds.IMAGES", 60)  # too few for accurate speeds
    study = Study.parse({**demo.to_config(), "seeds": 1, "cohort_size": 1})
    messages: list[str] = []
    speeds = measure(study, torch.device("cpu"), messages.append)
    parts = ("VAE-GANs", "attacks", "training", "distances")
    assert messages == [
        "measuring how long a job takes to start",
        *(f"measuring the speed of fonts (1 of 1): {part}" for part in parts),
    ]
    fonts = speeds.datasets["fonts"]
    assert set(fonts.s_per_training_step) == set(fonts.s_per_attack_step)
    assert set(fonts.s_per_attack_step) >= set(SPEED.s_per_attack_step)
    assert set(fonts.s_per_distance_step) == set(SPEED.s_per_distance_step)
    by_space = (fonts.s_per_training_step, fonts.s_per_attack_step, fonts.s_per_distance_step)
    seconds = [speeds.start, fonts.s_per_update_image, fonts.s_per_vaegan_image]
    seconds += [value for values in by_space for value in values.values()]
    assert all(value > 0 for value in seconds)
    path = tmp_path / "speeds.json"
    path.write_text(speeds.model_dump_json())
    assert plan._read_speeds(path, study) == speeds


COSTS = DatasetSpeeds(
    s_per_update_image=1e-3,
    s_per_training_step={space: 1e-5 * (i + 1) for i, space in enumerate(sorted(SPACES))},
    s_per_attack_step={space: 1e-6 * (i + 1) for i, space in enumerate(sorted(SPACES))},
    s_per_vaegan_image=0.25,
    s_per_distance_step={"true_manifold": 1e-4, "learned_manifold": 3e-4},
)
"""Seconds per unit of work, on the clock of the next test."""
FIXED_COST = 0.5
"""Seconds that each call takes on that clock, for any amount of work, e.g. to compile."""


def test_speeds_are_seconds_per_unit_of_work(demo, monkeypatch):
    """Work is replaced by functions that set the clock forward; the speeds must be those set."""
    clock = [0.0]

    def start_job(*_, **__):
        clock[0] += 2.0

    def run_search(_cohort, _space, labels, threat, search, *_, **__):
        steps = search.restarts * (search.steps + 1)
        clock[0] += COSTS.s_per_attack_step[threat.space] * labels.numel() * steps

    def train(cohort, data, config, method, *_):
        per_image = COSTS.s_per_update_image
        if method is not None:
            steps = method.search.restarts * (method.search.steps + 1)
            per_image += COSTS.s_per_training_step[method.threat.space] * steps / 2
        images = len(data) * len(cohort.seeds) * config.epochs
        clock[0] += FIXED_COST + per_image * images

    def train_vaegan(model, data, *_, **__):
        model.eval()
        clock[0] += COSTS.s_per_vaegan_image * len(data) * model.config.epochs

    def measure_distance(examples, _clean, space, *, steps, **_):
        clock[0] += COSTS.s_per_distance_step[space] * len(examples) * (steps + 1)

    work = {"run_search": run_search, "train": train, "train_vaegan": train_vaegan}
    for name, function in {**work, "measure_to_manifold": measure_distance}.items():
        monkeypatch.setattr(f"robustgen.jobs.speeds.{name}", function)
    monkeypatch.setattr("robustgen.jobs.speeds.subprocess.run", start_job)
    monkeypatch.setattr("robustgen.jobs.speeds.time.perf_counter", lambda: clock[0])
    speeds = measure(demo, torch.device("cpu"), lambda _: None)
    fonts = speeds.datasets["fonts"]
    assert speeds.start == pytest.approx(2.0)
    assert fonts.s_per_update_image == pytest.approx(COSTS.s_per_update_image)
    assert fonts.s_per_vaegan_image == pytest.approx(COSTS.s_per_vaegan_image)
    for name in ("s_per_training_step", "s_per_attack_step", "s_per_distance_step"):
        by_space = getattr(fonts, name)
        expected = {space: getattr(COSTS, name)[space] for space in by_space}
        assert by_space == pytest.approx(expected), name


RUNS = {
    "short": ([9.0, 3.0, 2.0, 4.0], 2.0, 4),
    "long": ([9.0, 7.0, 5.0, 1.0], 5.0, 3),
    "very long": ([90.0, 60.0], 60.0, 2),
}


@pytest.mark.parametrize(("durations", "minimum", "count"), RUNS.values(), ids=RUNS)
def test_long_runs_are_repeated_less_often(monkeypatch, durations, minimum, count):
    clock, remaining = [0.0], list(durations)
    monkeypatch.setattr("robustgen.jobs.speeds.time.perf_counter", lambda: clock[0])

    def run():
        clock[0] += remaining.pop(0)

    assert _time(run) == minimum
    assert len(remaining) == len(durations) - count


def test_the_longer_of_two_runs_is_not_warmed_up(monkeypatch):
    epochs = []
    monkeypatch.setattr(
        "robustgen.jobs.speeds._train", lambda *arguments: epochs.append(arguments[-1])
    )
    monkeypatch.setattr("robustgen.jobs.speeds.MAX_REPEATED_RUN_S", 1e-9)
    _time_epoch(*[None] * 4)
    assert epochs == [1, 1, 1 + EPOCHS]


def test_one_of_two_learned_spaces_is_measured():
    spaces = ["data_manifold", "image", "learned_manifold"]
    measured_spaces = {space: _equivalent_space(space, spaces) for space in spaces}
    assert measured_spaces == {
        "data_manifold": "data_manifold",
        "image": "image",
        "learned_manifold": "data_manifold",
    }


@pytest.fixture
def paper() -> dict:
    """The study of the paper: FONTS, and two data sets whose images have the same shape."""
    return yaml.safe_load((ROOT / "config" / "paper.yaml").read_text())


def measure_without_work(study: Study, monkeypatch) -> tuple[list[list[str]], list[str], Speeds]:
    """Call `measure` with a fake measurement; returns groups, messages and speeds."""
    by_space = dict.fromkeys(SPACES, 1e-5)
    speed = DatasetSpeeds(
        s_per_update_image=1e-4,
        s_per_training_step=by_space,
        s_per_attack_step=by_space,
        s_per_vaegan_image=1e-3,
        s_per_distance_step=by_space,
    )

    def report_one_part(*arguments):
        arguments[-1]("attacks")
        return speed

    measure_group = Mock(side_effect=report_one_part)
    monkeypatch.setattr("robustgen.jobs.speeds._measure_group", measure_group)
    monkeypatch.setattr("robustgen.jobs.speeds._time", Mock(return_value=2.0))
    messages: list[str] = []
    speeds = measure(study, torch.device("cpu"), messages.append)
    return [call.args[1] for call in measure_group.call_args_list], messages, speeds


def test_equal_data_sets_are_measured_once(paper, monkeypatch):
    study = Study.parse(paper)
    groups, messages, speeds = measure_without_work(study, monkeypatch)
    assert groups == [["fonts", "digits", "clothes"]]  # betas and epochs may differ
    assert messages[1:] == ["measuring the speed of fonts, digits and clothes (1 of 1): attacks"]
    used_spaces = {threat.space for threat in study.threats.values()}
    assert used_spaces >= {"image", "true_manifold", "learned_manifold", "data_manifold"}
    assert set(speeds.datasets["fonts"].s_per_attack_step) == used_spaces
    assert set(speeds.datasets["digits"].s_per_attack_step) == used_spaces - {"true_manifold"}
    assert set(speeds.datasets["fonts"].s_per_distance_step) == {
        "true_manifold",
        "learned_manifold",
    }
    assert set(speeds.datasets["clothes"].s_per_distance_step) == {"learned_manifold"}
    assert list(missing_speeds(study, speeds)) == []


UNEQUAL = {
    "no manifold": ("manifolds", {"digits": None}),
    "other channels": ("manifolds", {"digits": {"channels": [16, 32, 64]}}),
    "no discriminator": ("manifolds", {"digits": {"gamma": 0.0}}),
    "other classes": ("datasets", {"fonts": {"letters": "ABCDE"}}),
}


@pytest.mark.parametrize(("key", "changes"), UNEQUAL.values(), ids=UNEQUAL)
def test_unequal_data_sets_are_measured_separately(paper, monkeypatch, key, changes):
    for name, values in changes.items():
        if values is None:
            del paper[key][name]
        else:
            paper[key][name] |= values
    groups, messages, _ = measure_without_work(Study.parse(paper), monkeypatch)
    assert sorted(map(len, groups)) == [1, 2]
    assert messages[-1].endswith(" (2 of 2): attacks")


@pytest.mark.parametrize(
    ("normal_epoch", "adversarial_epoch", "s_per_update_image", "s_per_training_step"),
    [
        (0.03, 0.09, 1e-4, 0.06 / 150 / (STEPS + 1)),  # an idle machine
        (0.0, 0.09, 1e-5, 0.09 / 150 / (STEPS + 1)),  # one epoch took as long as several
        (-0.01, -0.01, 1e-5, 2e-5),
        (0.03, 0.0303, 1e-4, 0.0003 / 150 / (STEPS + 1)),  # on a GPU faster than in an attack
        (0.09, 0.08, 3e-4, 2e-5),  # other work slowed normal training more
    ],
)
def test_speeds_are_plausible_on_a_busy_machine(
    normal_epoch, adversarial_epoch, s_per_update_image, s_per_training_step, monkeypatch
):
    shape, attack_steps = (1, 28, 28), {"image": 1e-5, "true_manifold": 2e-5}
    cohort, rngs = _make_cohort("convnet", shape, 10, 1, torch.device("cpu"))
    data = _random_split(shape, 10, torch.device("cpu"))
    assert len(data) == IMAGES == 300

    def time_epoch(_cohort, _data, space, _rngs):
        return normal_epoch if space is None else adversarial_epoch

    def time_attack(_cohort, _data, space, _rngs):
        return attack_steps[space]

    monkeypatch.setattr("robustgen.jobs.speeds._time_epoch", time_epoch)
    monkeypatch.setattr("robustgen.jobs.speeds._time_attack", time_attack)
    update_image, training_steps = _time_training(cohort, data, rngs, attack_steps)
    assert update_image == pytest.approx(s_per_update_image)
    assert training_steps["true_manifold"] == pytest.approx(s_per_training_step)


@pytest.mark.parametrize(
    ("changes", "description"),
    [
        ({"s_per_training_step": {}}, "in the space image on fonts"),
        ({"s_per_attack_step": {"image": 1e-5}}, "in the space learned_manifold on fonts"),
        ({"s_per_vaegan_image": 0.0}, "of VAE-GANs on fonts"),
        ({"s_per_distance_step": {"true_manifold": 1e-4}}, "towards the learned_manifold on fonts"),
        ({}, None),
    ],
)
def test_missing_speeds_are_described(demo, changes, description):
    fonts = SPEED.model_copy(update=changes)
    speeds = SPEEDS.model_copy(update={"datasets": {"fonts": fonts}})
    assert next(missing_speeds(demo, speeds), None) == description


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
    "another message": ("killed\n \n", "the dry run of Snakemake failed: killed"),
    "no message": ("\n", "the dry run of Snakemake failed: it gave no reason"),
}


@pytest.mark.parametrize(("output", "sentence"), FAILURES.values(), ids=FAILURES)
def test_a_failed_dry_run_is_one_sentence(output, sentence):
    assert plan._reason_of_failure(output) == sentence
    shortened = plan._reason_of_failure("Error: " + "a word " * 1000)
    assert len(shortened) < 400
    assert len(shortened.splitlines()) == 1


def run_plan(*options: str | Path, folder: Path = ROOT, **variables: str):
    return subprocess.run(
        [sys.executable, "-m", "robustgen.jobs.plan", *map(str, options)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(**variables),
    )


@pytest.mark.slow
def test_a_failed_dry_run_ends_the_plan_before_the_measurement(tmp_path):
    run = run_plan("--configfile", ROOT / "config/smoke.yaml", folder=tmp_path)
    assert run.returncode == 1
    assert run.stderr.startswith(f"robustgen: {tmp_path} has no Snakefile: run this in the folder")
    assert len(run.stderr.splitlines()) == 1
    assert run.stdout == ""


@pytest.fixture
def speeds_file(tmp_path) -> Path:
    path = tmp_path / "my speeds.json"
    path.write_text(SPEEDS.model_dump_json())
    return path


@pytest.mark.slow
def test_a_study_can_have_several_config_files(tmp_path, speeds_file):
    """Later files override the first; a name may have spaces."""
    second_file = tmp_path / "second file.yaml"
    second_file.write_text(
        "study: larger\nsizes: [60, 90]\nclassifier: {epochs: 4}\nattacks: {regular: {steps: 2}}\n"
    )
    configs = ["--configfile", ROOT / "config/smoke.yaml", second_file]
    run = run_plan(*configs, "--speeds", speeds_file)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("larger on a machine\n")
    (train,) = (line.split() for line in run.stdout.splitlines() if line.startswith("train"))
    assert train[1] == "12"  # six methods at two sizes
    assert (
        "attacks.regular (2 steps of 0.05 move at most 0.1, but the radius is 0.3) are"
        in run.stderr
    )


def test_a_config_file_must_be_a_mapping(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- a\n")
    with pytest.raises(UserError, match=r"list\.yaml must be a mapping with keys such as study$"):
        read_merged([ROOT / "config/smoke.yaml", path])


def test_ctrl_c_ends_without_a_traceback(monkeypatch, tmp_path):
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
        (["--configfile", "no.yaml"], "robustgen: the config no.yaml cannot be read: No such file"),
        (["--speeds", "no.json"], "robustgen: no.json cannot be read: No such file or directory"),
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
def test_mistakes_are_one_sentence(args, sentence, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["plan", *args])
    with pytest.raises(SystemExit) as raised:
        plan.main()
    message = str(raised.value.code)
    assert message.startswith(sentence)
    assert len(message.splitlines()) == 1


def test_a_mistake_is_printed_without_a_traceback():
    run = run_plan("--cores", "0")
    assert run.returncode == 1
    assert run.stderr == "robustgen: --cores is 0, but must be 1 or more\n"


def test_the_speeds_of_a_gpu_plan_the_grid_of_the_paper():
    study = Study.parse(yaml.safe_load((ROOT / "config" / "paper_fonts.yaml").read_text()))
    speeds = plan._read_speeds(ROOT / "benchmarks" / "h200.json", study)
    assert speeds.shared
    wildcards = {"dataset": "fonts", "first": "0", "last": "4", "n": "40000"}
    for method in study.methods_of("fonts"):
        assert (
            0 < plan.estimate_seconds(study, speeds, "train", wildcards | {"method": method}) < 600
        )
    for attack in study.attacks:
        assert (
            0 < plan.estimate_seconds(study, speeds, "attack", wildcards | {"attack": attack}) < 600
        )
