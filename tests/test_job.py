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
from robustgen.jobs.fingerprint import fingerprint, forget
from robustgen.jobs.runtime import job
from robustgen.progress import log_progress


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("the sky is green"), "robustgen: the sky is green"),
        (MemoryError("9 TiB are too much"), "there is not enough memory: 9 TiB are too much"),
        (RuntimeError("you can't allocate memory"), "there is not enough memory: you can't"),
        (torch.OutOfMemoryError("CUDA out of memory."), "there is not enough memory: CUDA"),
    ],
    ids=["a mistake", "no memory", "none for torch", "none on a GPU"],
)
def test_what_a_user_can_mend_is_one_sentence(tmp_path, error, said):
    with pytest.raises(SystemExit, match=said), job(tmp_path / "log"):
        raise error
    assert str(error) in (tmp_path / "log").read_text()


def test_other_errors_pass_and_are_logged(tmp_path):
    with pytest.raises(ZeroDivisionError), job(tmp_path / "log"):
        1 / 0  # noqa: B018
    assert "ZeroDivisionError" in (tmp_path / "log").read_text()


STOPPED = """
import os, signal, sys
from pathlib import Path
from robustgen.io.atomic import atomic_write
from robustgen.jobs.runtime import job

with job("log"), atomic_write("result.zip") as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_job_told_to_stop_leaves_nothing_half_written(tmp_path):
    run = subprocess.run([sys.executable, "-c", STOPPED], cwd=tmp_path, capture_output=True)
    assert run.returncode == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert "stopped by signal 15" in (tmp_path / "log").read_text()


ENDED = """
from types import SimpleNamespace
from robustgen.jobs.runtime import job

with job("log", SimpleNamespace(rule="none", scriptdir="nowhere", params=None)):
    print("said", end="")
print("more")
"""


def test_a_process_of_its_own_ends_with_its_job(tmp_path):
    run = subprocess.run([sys.executable, "-c", ENDED], cwd=tmp_path, capture_output=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"said", b"")
    assert (tmp_path / "log").read_text().endswith("done\n")


def test_a_process_of_its_own_fails_with_its_job(tmp_path):
    failing = ENDED.replace('print("said", end="")', "raise MemoryError('so much')")
    run = subprocess.run([sys.executable, "-c", failing], cwd=tmp_path, capture_output=True)
    sentence = b"robustgen: there is not enough memory: so much; see log\n"
    assert (run.returncode, run.stdout, run.stderr) == (1, b"", sentence)


def test_progress_ends_in_the_log(tmp_path):
    with job(tmp_path / "log"):
        assert list(log_progress(range(3), "step")) == [0, 1, 2]
    log = (tmp_path / "log").read_text()
    assert "step 3/3, 0 s left" in log
    assert log.rstrip().endswith("done")
    assert not logging.getLogger("robustgen").handlers


def test_what_a_reader_stumbles_over_names_the_file():
    with pytest.raises(UserError, match=r"^a is not a readable b: IndexError$"), reading("a", "b"):
        raise IndexError
    with pytest.raises(UserError, match=r"^mine$"), reading("a", "b"):
        raise UserError("mine")


@pytest.mark.parametrize(
    "without", ["", " without robustgen.attacks.search robustgen.attacks.spaces"]
)
def test_a_job_whose_code_was_changed_after_planning_fails(tmp_path, monkeypatch, without):
    """A comment is no change; what is changed later has no part in the job."""
    monkeypatch.setattr("gc.freeze", lambda: None)  # this process goes on
    monkeypatch.setattr(
        "robustgen.jobs.runtime._exit_now", lambda failure: failure and sys.exit(failure)
    )
    now, own = time.time(), tmp_path / "train.py"
    monkeypatch.setenv("ROBUSTGEN_PLANNED", str(now))

    def write(text: str, seconds: float) -> None:
        own.write_text(f"from robustgen.attacks.search import search\nsearch({text})\n")
        os.utime(own, (seconds, seconds))
        forget()

    write("1", now - 10)
    code = fingerprint(own, without.split()[1:]) + without
    told = SimpleNamespace(rule="train", scriptdir=str(tmp_path), params=SimpleNamespace(code=code))
    write("1)  # (one", now + 10)
    with job(tmp_path / "log", told):
        write("2", now + 10)
    sentence = r"changed after it was planned, in \S+train\.py; run again"
    with pytest.raises(SystemExit, match=sentence), job(tmp_path / "log", told):
        pass
