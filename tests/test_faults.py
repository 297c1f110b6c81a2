"""Whatever breaks: a clear sentence, nothing lost but the job at work, and the next run goes on."""

import filecmp
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import SMOKE, changed, copied_project, rewritten, same, snakemake, started

DATA = "results/smoke/fonts"
COHORT = f"{DATA}/classifiers/normal/n60/seeds0-1.safetensors"
ROWS = f"{DATA}/attacks/regular/normal/n60/seeds0-1.parquet"
KILLS = 30
PATIENCE = 240
"""Seconds for what takes a few on an idle machine."""


def unlocked(folder: Path) -> None:
    """What Snakemake asks for after it was killed."""
    run = snakemake(folder, "--unlock")
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.long
def test_killed_at_random_moments(study, tmp_path):
    """SIGKILL of every process, thirty times; each next run goes on, to the same bytes."""
    rng = random.Random(0)
    finished, kills, folder = 0, 0, tmp_path / "0"
    folder.mkdir()
    whole = same(study, study)
    while kills < KILLS:
        run = started(folder, "--cores=2", ROBUSTGEN_CHECKPOINT_SECONDS="0.2")
        try:
            run.wait(timeout=rng.uniform(2, 12))
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            kills += 1
            unlocked(folder)
        else:
            assert run.returncode == 0, (folder / "said").read_text()[-3000:]
            assert same(study, folder) == whole
            finished += 1
            folder = tmp_path / str(finished)
            folder.mkdir()
    run = snakemake(folder, "--cores", "2")
    assert run.returncode == 0, run.stderr[-3000:]
    assert same(study, folder) == whole
    left = [path for path in tmp_path.rglob("*") if "checkpoint" in path.name]
    assert not left


@pytest.fixture
def copied(study, tmp_path) -> Path:
    """The finished study, but for one table of an attack."""
    shutil.copytree(study, tmp_path / "study")
    (tmp_path / "study" / ROWS).unlink()
    return tmp_path / "study"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [pytest.param(cut, marks=pytest.mark.long), flip])
def test_a_damaged_file_is_told_and_can_be_made_again(study, copied, damage):
    damage(copied / COHORT)
    run = snakemake(copied, ROWS, "--cores", "1")
    said = run.stdout + run.stderr
    assert run.returncode != 0
    assert f"robustgen: {COHORT} is " in said, said[-3000:]
    assert "Traceback" not in said
    assert not (copied / ROWS).exists()
    *_, count, sentence, log = run.stderr.rstrip().splitlines()
    assert count.startswith("robustgen: 1 job failed")
    details = "dataset fonts, attack regular, method normal, n 60, first 0, last 1"
    assert sentence.startswith(f"  attack ({details}): {COHORT} is ")
    assert log == "    log: results/smoke/logs/fonts/attack/regular/normal/n60/seeds0-1.log"
    (copied / COHORT).unlink()
    run = snakemake(copied, ROWS, "--cores", "1")
    assert run.returncode == 0, run.stderr[-3000:]
    assert filecmp.cmp(study / ROWS, copied / ROWS, shallow=False)
    assert filecmp.cmp(study / COHORT, copied / COHORT, shallow=False)


def script(folder: Path, name: str) -> int:
    """The process of a running job of this script in `folder`."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for place in Path("/proc").glob("[0-9]*"):
            try:
                words = (place / "cmdline").read_text().split("\0")
                here = (place / "cwd").readlink() == folder
            except OSError:
                continue
            if here and any(word.endswith(f".{name}.py") for word in words):
                return int(place.name)
        time.sleep(0.02)
    raise TimeoutError(f"no job of {name}")


def test_a_killed_job_is_noticed_and_the_next_run_goes_on(study, copied):
    """As by the kernel, when memory is short."""
    run = started(copied, ROWS, "--cores=2")
    os.kill(script(copied, "attack"), signal.SIGKILL)
    assert run.wait(timeout=PATIENCE) != 0
    said = (copied / "said").read_text()
    assert "Error in rule attack" in said
    assert "died with <Signals.SIGKILL: 9>" in said
    again = snakemake(copied, ROWS, "--cores", "1")
    assert again.returncode == 0, again.stderr[-3000:]
    assert filecmp.cmp(study / ROWS, copied / ROWS, shallow=False)


def test_two_runs_at_once_and_ctrl_c(study, copied):
    """The second is refused, and changes nothing; the first is stopped, and gone on with."""
    lost = [
        str(path.relative_to(study)) for path in (study / DATA).glob("attacks/regular/*/n60/*t")
    ]
    assert ROWS in lost
    for name in lost:
        (copied / name).unlink(missing_ok=True)
    first = started(copied, *lost, "--cores=2")
    job = script(copied, "attack")
    os.kill(job, signal.SIGSTOP)  # so that not all is done before the second starts
    second = snakemake(copied, *lost, "--cores", "1")
    assert second.returncode != 0
    assert "Directory cannot be locked" in second.stdout + second.stderr
    first.send_signal(signal.SIGINT)
    os.kill(job, signal.SIGCONT)
    assert first.wait(timeout=PATIENCE) != 0
    again = snakemake(copied, *lost, "--cores", "2")
    assert again.returncode == 0, again.stderr[-3000:]
    assert same(study, copied) == same(study, study)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk(study, copied):
    attacks = copied / f"{DATA}/attacks/regular/normal"
    with small_disk(attacks, "8k"):
        run = snakemake(copied, ROWS, "--cores", "1")
        said = run.stdout + run.stderr
        assert run.returncode != 0
        assert "No space left on device" in said, said[-3000:]
        assert "Traceback" not in said
        assert not [path for path in attacks.rglob("*") if path.is_file()]
        subprocess.run(["mount", "-o", "remount,size=10m", attacks], check=True)
        run = snakemake(copied, ROWS, "--cores", "1")
        assert run.returncode == 0, run.stderr[-3000:]
        assert filecmp.cmp(study / ROWS, copied / ROWS, shallow=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_full_from_the_start(tmp_path):
    with small_disk(tmp_path / "full", "500k"):
        run = snakemake(tmp_path / "full", ROWS, "--cores", "1")
        said = run.stdout + run.stderr
        assert run.returncode != 0
        assert "cannot be written" in said
        assert "No space left on device; free it" in said, said[-3000:]
        assert "Traceback" not in said


@contextmanager
def short_of_memory(size: int) -> Iterator[None]:
    """Whatever is started meanwhile may have this many bytes of its own."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_a_job_without_enough_memory(tmp_path):
    """Twelve million images of each letter: their codes alone are gigabytes."""
    fonts = {**SMOKE["datasets"]["fonts"], "train_draws": 10**6}
    config = changed(tmp_path, datasets={"fonts": fonts})
    with short_of_memory(1_500_000_000):
        run = snakemake(tmp_path, f"{DATA}/dataset/examples.parquet", "--cores=1", config=config)
    said = run.stdout + run.stderr
    assert run.returncode != 0
    assert "robustgen: there is not enough memory: " in said, said[-3000:]
    assert f"see {DATA.replace('fonts', 'logs/fonts')}/codes.log" in said
    assert "Traceback" not in said
    assert not (tmp_path / DATA / "dataset/examples.parquet").exists()


def test_training_that_diverges_leaves_no_table(copied, tmp_path):
    manifold = {**SMOKE["manifolds"]["fonts"], "learning_rate": 1e6}
    config = changed(tmp_path, manifolds={"fonts": manifold})
    folder = f"{DATA}/manifolds"
    run = snakemake(copied, f"{folder}/class0.curves.parquet", "--cores", "1", config=config)
    said = run.stdout + run.stderr
    assert run.returncode != 0
    assert "diverged: a loss is not finite in epoch 1 at learning rate 1e+06" in said, said[-3000:]
    assert "Traceback" not in said
    assert not list((copied / folder).glob("class0*"))


@pytest.mark.long
def test_code_that_is_edited_during_a_run_makes_no_results(tmp_path):
    """Of the job that starts after the edit; the next run goes on with the new code."""
    project = copied_project(tmp_path / "project")
    sheet = f"{DATA}/figures/prototypes.png"
    first = started(tmp_path, sheet, "--cores=1", project=project)
    script(tmp_path, "prototypes")
    drawing = project / "src/robustgen/figures/prototypes.py"
    rewritten(drawing, "{fonts} fonts ×", "{fonts} different fonts ×")
    assert first.wait(timeout=PATIENCE) == 1
    said = (tmp_path / "said").read_text()
    assert "robustgen: the code of this job was changed after it was planned" in said, said[-3000:]
    assert not (tmp_path / sheet).exists()
    again = snakemake(tmp_path, sheet, "--cores=1", project=project)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (tmp_path / sheet).exists()
