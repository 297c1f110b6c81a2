"""The study on a real SLURM of one node, through the profile: `make test-slurm`."""

import subprocess
import time
from pathlib import Path

import cluster
import pytest
from conftest import HERE, PART, SMOKE, changed, same, snakemake, started, wanted

pytestmark = pytest.mark.slurm
PROFILE = HERE / "profiles" / "slurm"
# Accounting is what the default, sacct, asks; this SLURM keeps none. The rest spares waiting: when
# no job has ended by the next look, the one after it is ten seconds later still.
HERE_ONLY = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "9")
HERE_ONLY += ("--latency-wait", "5", "--seconds-between-status-checks", "2")


@pytest.fixture(scope="module", autouse=True)
def _slurm(tmp_path_factory):
    if reason := cluster.why_not():
        pytest.skip(reason)
    with cluster.slurm(tmp_path_factory.mktemp("slurm")):
        yield


def test_the_same_bytes_as_a_local_run(study, tmp_path):
    config = changed(tmp_path, **PART)
    run = snakemake(tmp_path, "--profile", PROFILE, *HERE_ONLY, config=config)
    assert run.returncode == 0, run.stderr[-3000:]
    submitted = (run.stdout + run.stderr).count("has been submitted with SLURM jobid")
    assert 20 < submitted < len(list((tmp_path / "results").rglob("*.tsv")))  # some share a job
    assert wanted(snakemake(tmp_path, "-n", config=config)) == {}
    assert (tmp_path / "results/smoke/tables/verdicts.txt").exists()
    assert (tmp_path / "results/smoke/figures/figure3.pdf").exists()
    stages = ("dataset", "manifolds", "classifiers", "attacks", "distances")
    assert sum(same(study, tmp_path, f"results/smoke/fonts/{stage}") for stage in stages) > 30


def test_another_executor_needs_only_a_profile(study, tmp_path):
    """A job that the scheduler ended is noticed there too."""
    rows = "results/smoke/fonts/attacks/regular/normal/n60/seeds0-1.parquet"
    with_profile = ("--profile", HERE / "profiles/cluster-generic")
    first = started(tmp_path, rows, *with_profile)
    subprocess.run(["scancel", when("robustgen-train")], check=True)
    assert first.wait(timeout=600) == 1
    assert "Error in rule train" in (tmp_path / "said").read_text()
    run = snakemake(tmp_path, rows, *with_profile)
    assert run.returncode == 0, run.stderr[-3000:]
    told = subprocess.run(["scontrol", "-o", "show", "job"], capture_output=True, text=True).stdout
    assert told.count("JobName=robustgen-attack") == 1
    assert same(study, tmp_path) > 5


LONG = 3500
"""Steps of a search with which a training takes longer than SLURM needs to end it."""


RATE = SMOKE["manifolds"]["fonts"]["learning_rate"]


def troubled(tmp_path: Path, vaegan_rate: float) -> tuple[Path, list[str]]:
    """A study whose VAE-GANs diverge at a high learning rate, and its targets."""
    methods = {name: SMOKE["methods"][name] for name in ("normal", "adversarial")}
    methods["long"] = {**methods["adversarial"], "steps": LONG}
    manifolds = {"fonts": {**SMOKE["manifolds"]["fonts"], "learning_rate": vaegan_rate}}
    config = changed(tmp_path, methods=methods, manifolds=manifolds)
    targets = [f"results/smoke/fonts/classifiers/{m}/n60/seeds0-1.safetensors" for m in methods]
    return config, [*targets, "results/smoke/fonts/manifolds/class0.safetensors"]


def running(words: str) -> str:
    """The id of the running job whose name and comment have all of these words."""
    told = subprocess.run(
        ["squeue", "-h", "-t", "R", "-o", "%i %j %k"], capture_output=True, text=True, check=True
    ).stdout
    jobs = [line.split(maxsplit=1) for line in told.splitlines() if " " in line]
    return next((job for job, about in jobs if all(w in about for w in words.split())), "")


def when(running_job: str, seconds: float = 600) -> str:
    deadline = time.monotonic() + seconds
    while not (job := running(running_job)):
        assert time.monotonic() < deadline, running_job
        time.sleep(0.2)
    return job


def test_failed_cancelled_and_timed_out_jobs_are_noticed(tmp_path):
    """The others go on, and a second call finishes; a killed training goes on where it was."""
    config, targets = troubled(tmp_path, vaegan_rate=1e6)
    by_slurm = (*targets, "--profile", PROFILE, *HERE_ONLY)
    first = started(tmp_path, *by_slurm, config=config, ROBUSTGEN_CHECKPOINT_SECONDS="1")
    subprocess.run(["scancel", when("rule_train adversarial")], check=True)
    out_of_time = when("rule_train long")
    kept = tmp_path / "results/smoke/fonts/classifiers/long/n60/seeds0-1.checkpoint.safetensors"
    while not kept.exists():
        assert first.poll() is None
        time.sleep(0.2)
    subprocess.run(["scontrol", "update", f"jobid={out_of_time}", "EndTime=now"], check=True)
    assert first.wait(timeout=600) == 1
    text = (tmp_path / "said").read_text()
    for state in ("FAILED", "CANCELLED", "TIMEOUT"):
        assert f"SLURM status is: '{state}" in text, text[-3000:]
    normal = tmp_path / targets[0]
    done = normal.stat().st_mtime_ns
    assert not any((tmp_path / target).exists() for target in targets[1:])

    config, targets = troubled(tmp_path, vaegan_rate=RATE)
    again = snakemake(tmp_path, *by_slurm, config=config)
    assert again.returncode == 0, again.stderr[-3000:]
    assert normal.stat().st_mtime_ns == done
    assert all((tmp_path / target).exists() for target in targets)
    log = (tmp_path / "results/smoke/logs/fonts/train/long/n60/seeds0-1.log").read_text()
    assert "going on in epoch" in log
    assert not kept.exists()
