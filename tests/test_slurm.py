"""The smoke study on a real SLURM cluster of one node, through the profile: `make test-slurm`."""

import subprocess
import time
from pathlib import Path

import cluster
import pytest
from conftest import (
    ROOT,
    SMOKE,
    count_equal_files,
    count_planned_jobs,
    snakemake,
    start_snakemake,
    write_config,
)

pytestmark = pytest.mark.slurm
PROFILE = ROOT / "profiles" / "slurm"
# `squeue` replaces the default `sacct`, because this cluster has no accounting. The other options
# shorten the waits between status checks.
TEST_OPTIONS = ("--slurm-status-command", "squeue")
TEST_OPTIONS += ("--slurm-init-seconds-before-status-checks", "9")
TEST_OPTIONS += ("--latency-wait", "5", "--seconds-between-status-checks", "2")

SMALLEST_PART = {
    "methods": {"normal": SMOKE["methods"]["normal"]},
    "attacks": {"regular": SMOKE["attacks"]["regular"]},
    "distances": {**SMOKE["distances"], "attacks": ["regular"]},
}
"""Keys that restrict the smoke study to one method and attack, and so keep a job of each rule."""


@pytest.fixture(scope="module", autouse=True)
def _slurm(tmp_path_factory):
    if reason := cluster.find_obstacle():
        pytest.skip(reason)
    with cluster.run_slurm(tmp_path_factory.mktemp("slurm")):
        yield


def test_a_run_on_slurm_gives_the_bytes_of_a_local_run(study, tmp_path):
    config = write_config(tmp_path, **SMALLEST_PART)
    run = snakemake(tmp_path, "--profile", PROFILE, *TEST_OPTIONS, config=config)
    assert run.returncode == 0, run.stderr[-3000:]
    submission_count = (run.stdout + run.stderr).count("has been submitted with SLURM jobid")
    benchmark_count = len(list((tmp_path / "results").rglob("*.tsv")))
    assert 15 < submission_count < benchmark_count, "some jobs must be submitted as a group"
    assert count_planned_jobs(snakemake(tmp_path, "-n", config=config)) == {}
    assert (tmp_path / "results/smoke/tables/verdicts.txt").exists()
    assert (tmp_path / "results/smoke/figures/figure3.pdf").exists()
    stages = ("dataset", "manifolds", "classifiers", "attacks", "distances")
    assert (
        sum(count_equal_files(study, tmp_path, f"results/smoke/fonts/{stage}") for stage in stages)
        > 20
    )


def test_the_generic_executor_resumes_after_a_cancelled_job(study, tmp_path):
    """The executor needs only a profile and reports a job that the scheduler has ended."""
    target = "results/smoke/fonts/attacks/regular/normal/n60/seeds0-1.parquet"
    options = ("--profile", ROOT / "profiles/cluster-generic")
    first_run = start_snakemake(tmp_path, target, *options)
    subprocess.run(["scancel", wait_for_job("robustgen-train")], check=True)
    assert first_run.wait(timeout=600) == 1
    assert "Error in rule train" in (tmp_path / "output.txt").read_text()
    run = snakemake(tmp_path, target, *options)
    assert run.returncode == 0, run.stderr[-3000:]
    jobs = subprocess.run(["scontrol", "-o", "show", "job"], capture_output=True, text=True).stdout
    assert jobs.count("JobName=robustgen-attack") == 1
    assert count_equal_files(study, tmp_path) > 5


LONG_STEPS = 3500
"""Number of search steps with which a training lasts longer than SLURM needs to end it."""
RATE = SMOKE["manifolds"]["fonts"]["learning_rate"]


def write_study(tmp_path: Path, vaegan_rate: float) -> tuple[Path, list[str]]:
    """Write a study with this learning rate of VAE-GANs; return its config file and targets."""
    methods = {name: SMOKE["methods"][name] for name in ("normal", "adversarial")}
    methods["long"] = {**methods["adversarial"], "steps": LONG_STEPS}
    manifolds = {"fonts": {**SMOKE["manifolds"]["fonts"], "learning_rate": vaegan_rate}}
    config = write_config(tmp_path, methods=methods, manifolds=manifolds)
    folder = "results/smoke/fonts/classifiers"
    targets = [f"{folder}/{method}/n60/seeds0-1.safetensors" for method in methods]
    return config, [*targets, "results/smoke/fonts/manifolds/class0.safetensors"]


def find_running_job(words: str) -> str:
    """Return the id of the running job whose name and comment contain all words, or no text."""
    squeue = subprocess.run(
        ["squeue", "-h", "-t", "R", "-o", "%i %j %k"], capture_output=True, text=True, check=True
    )
    for line in squeue.stdout.splitlines():
        job_id, _, description = line.partition(" ")
        if description and all(word in description for word in words.split()):
            return job_id
    return ""


def wait_for_job(words: str, timeout_s: float = 600) -> str:
    """Wait until a job with these words in its name and comment runs; return its id."""
    deadline = time.monotonic() + timeout_s
    while not (job_id := find_running_job(words)):
        assert time.monotonic() < deadline, words
        time.sleep(0.2)
    return job_id


def test_a_second_run_completes_failed_cancelled_and_timed_out_jobs(tmp_path):
    """Other jobs finish in the first run, and the timed-out training resumes in the second."""
    config, targets = write_study(tmp_path, vaegan_rate=1e6)
    arguments = (*targets, "--profile", PROFILE, *TEST_OPTIONS)
    first_run = start_snakemake(
        tmp_path, *arguments, config=config, ROBUSTGEN_CHECKPOINT_SECONDS="1"
    )
    subprocess.run(["scancel", wait_for_job("rule_train adversarial")], check=True)
    long_job = wait_for_job("rule_train long")
    folder = tmp_path / "results/smoke/fonts/classifiers/long/n60"
    checkpoint = folder / "seeds0-1.checkpoint.safetensors"
    while not checkpoint.exists():
        assert first_run.poll() is None
        time.sleep(0.2)
    subprocess.run(["scontrol", "update", f"jobid={long_job}", "EndTime=now"], check=True)
    assert first_run.wait(timeout=600) == 1
    text = (tmp_path / "output.txt").read_text()
    for state in ("FAILED", "CANCELLED", "TIMEOUT"):
        assert f"SLURM status is: '{state}" in text, text[-3000:]
    normal = tmp_path / targets[0]
    write_time = normal.stat().st_mtime_ns
    assert not any((tmp_path / target).exists() for target in targets[1:])

    config, targets = write_study(tmp_path, vaegan_rate=RATE)
    second_run = snakemake(tmp_path, *arguments, config=config)
    assert second_run.returncode == 0, second_run.stderr[-3000:]
    assert normal.stat().st_mtime_ns == write_time
    assert all((tmp_path / target).exists() for target in targets)
    log = (tmp_path / "results/smoke/logs/fonts/train/long/n60/seeds0-1.log").read_text()
    assert "resuming in epoch" in log
    assert not checkpoint.exists()
