import logging
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from robustgen.errors import UserError, reading
from robustgen.jobs.fingerprint import clear_caches, fingerprint
from robustgen.jobs.runtime import run_job
from robustgen.progress import log_progress


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("the sky is green"), "robustgen: the sky is green"),
        (MemoryError("9 TiB are too much"), "not enough memory: 9 TiB are too much"),
        (RuntimeError("you can't allocate memory"), "not enough memory: you can't"),
        (torch.OutOfMemoryError("CUDA out of memory."), "not enough memory: CUDA"),
        (ValueError("model cannot run: CUDA out of memory."), "not enough memory: model cannot"),
    ],
    ids=["a mistake", "no memory", "no memory for torch", "no memory on a GPU", "as a cause"],
)
def test_an_error_that_a_user_can_fix_is_one_sentence(tmp_path, error, message):
    with pytest.raises(SystemExit, match=message), run_job(tmp_path / "log"):
        raise error
    assert str(error) in (tmp_path / "log").read_text()


def test_other_errors_are_raised_and_logged(tmp_path):
    with pytest.raises(ZeroDivisionError), run_job(tmp_path / "log"):
        1 / 0  # noqa: B018
    assert "ZeroDivisionError" in (tmp_path / "log").read_text()


STOPPED_JOB = """
import os, signal, sys
from pathlib import Path
from robustgen.io.atomic import atomic_write
from robustgen.jobs.runtime import run_job

with run_job("log"), atomic_write("result.zip") as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_job_that_is_stopped_leaves_no_partial_file(tmp_path):
    run = subprocess.run([sys.executable, "-c", STOPPED_JOB], cwd=tmp_path, capture_output=True)
    assert run.returncode == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert "stopped by signal 15" in (tmp_path / "log").read_text()


JOB_OF_SNAKEMAKE = """
from types import SimpleNamespace
from robustgen.jobs.runtime import run_job

with run_job("log", SimpleNamespace(rule="none", scriptdir="nowhere", params=None)):
    print("in the job", end="")
print("after the job")
"""


def test_the_process_of_a_script_ends_with_its_job(tmp_path):
    command = [sys.executable, "-c", JOB_OF_SNAKEMAKE]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"in the job", b"")
    assert (tmp_path / "log").read_text().endswith("done\n")


def test_the_process_of_a_script_fails_with_its_job(tmp_path):
    code = JOB_OF_SNAKEMAKE.replace('print("in the job", end="")', "raise MemoryError('so much')")
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    sentence = b"robustgen: not enough memory: so much; run fewer jobs at a time, see log\n"
    assert (run.returncode, run.stdout, run.stderr) == (1, b"", sentence)


def test_the_last_step_is_always_logged(tmp_path):
    with run_job(tmp_path / "log"):
        assert list(log_progress(range(3), "step")) == [0, 1, 2]
    log = (tmp_path / "log").read_text()
    assert "step 3/3, 0 s left" in log
    assert log.rstrip().endswith("done")
    assert not logging.getLogger("robustgen").handlers


def test_an_error_of_a_reader_names_the_file():
    with pytest.raises(UserError, match=r"^a is not a readable b: IndexError$"), reading("a", "b"):
        raise IndexError
    with pytest.raises(UserError, match=r"^mine$"), reading("a", "b"):
        raise UserError("mine")


@pytest.mark.parametrize(
    "exclusion", ["", " without robustgen.attacks.search robustgen.attacks.spaces"]
)
def test_a_job_whose_code_was_changed_after_planning_fails(tmp_path, monkeypatch, exclusion):
    """A comment does not count, nor does a change after the start of the job."""
    monkeypatch.setattr("gc.freeze", lambda: None)  # this process continues
    monkeypatch.setattr(
        "robustgen.jobs.runtime._exit_now", lambda failure: failure and sys.exit(failure)
    )
    plan_time, script_file = time.time(), tmp_path / "train.py"
    monkeypatch.setenv("ROBUSTGEN_PLANNED", str(plan_time))

    def write_script(argument: str, modification_time: float) -> None:
        script_file.write_text(f"from robustgen.attacks.search import search\nsearch({argument})\n")
        os.utime(script_file, (modification_time, modification_time))
        clear_caches()

    write_script("1", plan_time - 10)
    code = fingerprint(script_file, exclusion.split()[1:]) + exclusion
    params = SimpleNamespace(code=code)
    script = SimpleNamespace(rule="train", scriptdir=str(tmp_path), params=params)
    write_script("1)  # (one", plan_time + 10)
    with run_job(tmp_path / "log", script):
        write_script("2", plan_time + 10)
    sentence = r"changed after it was planned, in \S+train\.py; run again"
    with pytest.raises(SystemExit, match=sentence), run_job(tmp_path / "log", script):
        pass
