"""Faults: each is one sentence, costs only the running job, and the next run resumes."""

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
from conftest import (
    SMOKE,
    copy_project,
    count_equal_files,
    replace_text,
    snakemake,
    start_snakemake,
    write_config,
)

pytestmark = pytest.mark.slow

DATA = "results/smoke/fonts"
COHORT = f"{DATA}/classifiers/normal/n60/seeds0-1.safetensors"
ROWS = f"{DATA}/attacks/regular/normal/n60/seeds0-1.parquet"
KILLS = 30
TIMEOUT_S = 240
"""Limit, in seconds, for work that takes a few seconds on an idle machine."""


def unlock(folder: Path) -> None:
    """Remove the lock of a killed Snakemake."""
    run = snakemake(folder, "--unlock")
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.long
def test_a_study_that_is_killed_at_random_moments_ends_with_the_same_bytes(study, tmp_path):
    """Every process gets SIGKILL, thirty times; the next run resumes."""
    rng = random.Random(0)
    finished, kills, folder = 0, 0, tmp_path / "0"
    folder.mkdir()
    file_count = count_equal_files(study, study)
    while kills < KILLS:
        run = start_snakemake(folder, "--cores=2", ROBUSTGEN_CHECKPOINT_SECONDS="0.2")
        try:
            run.wait(timeout=rng.uniform(2, 12))
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            kills += 1
            unlock(folder)
        else:
            assert run.returncode == 0, (folder / "output.txt").read_text()[-3000:]
            assert count_equal_files(study, folder) == file_count
            finished += 1
            folder = tmp_path / str(finished)
            folder.mkdir()
    run = snakemake(folder, "--cores", "2")
    assert run.returncode == 0, run.stderr[-3000:]
    assert count_equal_files(study, folder) == file_count
    assert not [path for path in tmp_path.rglob("*") if "checkpoint" in path.name]


@pytest.fixture
def copied(study, tmp_path) -> Path:
    """The finished study without one table of an attack."""
    shutil.copytree(study, tmp_path / "study")
    (tmp_path / "study" / ROWS).unlink()
    return tmp_path / "study"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [pytest.param(truncate, marks=pytest.mark.long), flip_bit])
def test_a_damaged_file_is_named_and_can_be_recreated(study, copied, damage):
    damage(copied / COHORT)
    run = snakemake(copied, ROWS, "--cores", "1")
    output = run.stdout + run.stderr
    assert run.returncode != 0
    assert f"robustgen: {COHORT} is " in output, output[-3000:]
    assert "Traceback" not in output
    assert not (copied / ROWS).exists()
    *_, count, message, log = run.stderr.rstrip().splitlines()
    assert count.startswith("robustgen: 1 job failed")
    details = "dataset fonts, attack regular, method normal, n 60, first 0, last 1"
    assert message.startswith(f"  attack ({details}): {COHORT} is ")
    assert log == "    log: results/smoke/logs/fonts/attack/regular/normal/n60/seeds0-1.log"
    (copied / COHORT).unlink()
    run = snakemake(copied, ROWS, "--cores", "1")
    assert run.returncode == 0, run.stderr[-3000:]
    assert filecmp.cmp(study / ROWS, copied / ROWS, shallow=False)
    assert filecmp.cmp(study / COHORT, copied / COHORT, shallow=False)


def find_job(folder: Path, name: str) -> int:
    """Wait for a job of the script called `name` in `folder`, and return its process ID."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_text().split("\0")
                is_in_folder = (process / "cwd").readlink() == folder
            except OSError:
                continue
            if is_in_folder and any(word.endswith(f".{name}.py") for word in words):
                return int(process.name)
        time.sleep(0.02)
    raise TimeoutError(f"no job of {name}")


def test_a_killed_job_is_reported_and_the_next_run_resumes(study, copied):
    """The kernel kills jobs if memory is short."""
    run = start_snakemake(copied, ROWS, "--cores=2")
    os.kill(find_job(copied, "attack"), signal.SIGKILL)
    assert run.wait(timeout=TIMEOUT_S) != 0
    output = (copied / "output.txt").read_text()
    assert "Error in rule attack" in output
    assert "died with <Signals.SIGKILL: 9>" in output
    next_run = snakemake(copied, ROWS, "--cores", "1")
    assert next_run.returncode == 0, next_run.stderr[-3000:]
    assert filecmp.cmp(study / ROWS, copied / ROWS, shallow=False)


@pytest.mark.long
def test_a_second_run_is_refused_and_a_stopped_run_resumes(study, copied):
    missing = [
        str(path.relative_to(study)) for path in (study / DATA).glob("attacks/regular/*/n60/*t")
    ]
    assert ROWS in missing
    for name in missing:
        (copied / name).unlink(missing_ok=True)
    first = start_snakemake(copied, *missing, "--cores=2")
    job = find_job(copied, "attack")
    os.kill(job, signal.SIGSTOP)  # the first run must not finish before the second
    second = snakemake(copied, *missing, "--cores", "1")
    assert second.returncode != 0
    assert "Directory cannot be locked" in second.stdout + second.stderr
    first.send_signal(signal.SIGINT)
    os.kill(job, signal.SIGCONT)
    assert first.wait(timeout=TIMEOUT_S) != 0
    next_run = snakemake(copied, *missing, "--cores", "2")
    assert next_run.returncode == 0, next_run.stderr[-3000:]
    assert count_equal_files(study, copied) == count_equal_files(study, study)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a file system of a limited size at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_one_sentence_and_leaves_no_partial_file(study, copied):
    attacks = copied / f"{DATA}/attacks/regular/normal"
    with small_disk(attacks, "8k"):
        run = snakemake(copied, ROWS, "--cores", "1")
        output = run.stdout + run.stderr
        assert run.returncode != 0
        assert "No space left on device" in output, output[-3000:]
        assert "Traceback" not in output
        assert not [path for path in attacks.rglob("*") if path.is_file()]
        subprocess.run(["mount", "-o", "remount,size=10m", attacks], check=True)
        run = snakemake(copied, ROWS, "--cores", "1")
        assert run.returncode == 0, run.stderr[-3000:]
        assert filecmp.cmp(study / ROWS, copied / ROWS, shallow=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_full_at_the_start_is_one_sentence(tmp_path):
    with small_disk(tmp_path / "full", "500k"):
        run = snakemake(tmp_path / "full", ROWS, "--cores", "1")
        output = run.stdout + run.stderr
        assert run.returncode != 0
        assert "cannot be written" in output
        assert "No space left on device; make it writable, free" in output, output[-3000:]
        assert "Traceback" not in output


@contextmanager
def limited_memory(size: int) -> Iterator[None]:
    """Limit the data of every process that is started meanwhile to `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def test_a_job_without_enough_memory_is_one_sentence(tmp_path):
    """The codes of twelve million images of each letter take gigabytes."""
    fonts = {**SMOKE["datasets"]["fonts"], "train_images_per_glyph": 10**6}
    config = write_config(tmp_path, datasets={"fonts": fonts})
    with limited_memory(1_500_000_000):
        run = snakemake(tmp_path, f"{DATA}/dataset/examples.parquet", "--cores=1", config=config)
    output = run.stdout + run.stderr
    assert run.returncode != 0
    assert "robustgen: not enough memory: " in output, output[-3000:]
    assert f"see {DATA.replace('fonts', 'logs/fonts')}/codes.log" in output
    assert "Traceback" not in output
    assert not (tmp_path / DATA / "dataset/examples.parquet").exists()


def test_diverging_training_leaves_no_table(copied, tmp_path):
    manifold = {**SMOKE["manifolds"]["fonts"], "learning_rate": 1e6}
    config = write_config(tmp_path, manifolds={"fonts": manifold})
    folder = f"{DATA}/manifolds"
    run = snakemake(copied, f"{folder}/class0.curves.parquet", "--cores", "1", config=config)
    output = run.stdout + run.stderr
    assert run.returncode != 0
    assert "diverged: a loss is not finite in epoch 1 at learning rate 1e+06" in output, output[
        -3000:
    ]
    assert "Traceback" not in output
    assert not list((copied / folder).glob("class0*"))


@pytest.mark.long
def test_a_job_whose_code_was_edited_during_the_run_fails(tmp_path):
    """The next run uses the new code."""
    project = copy_project(tmp_path / "project")
    sheet = f"{DATA}/figures/prototypes.png"
    first = start_snakemake(tmp_path, sheet, "--cores=1", project=project)
    find_job(tmp_path, "prototypes")
    drawing = project / "src/robustgen/figures/prototypes.py"
    replace_text(drawing, "{fonts} fonts ×", "{fonts} different fonts ×")
    assert first.wait(timeout=TIMEOUT_S) == 1
    output = (tmp_path / "output.txt").read_text()
    assert "robustgen: the code of this job was changed after it was planned" in output, output[
        -3000:
    ]
    assert not (tmp_path / sheet).exists()
    next_run = snakemake(tmp_path, sheet, "--cores=1", project=project)
    assert next_run.returncode == 0, next_run.stderr[-3000:]
    assert (tmp_path / sheet).exists()
