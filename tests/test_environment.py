"""Environment variables and interpreters: how the workflow reads and passes them."""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT, STUDY, copy_project, environment, snakemake

from robustgen.environment import (
    DEFAULT_CHECKPOINT_INTERVAL_S,
    read_backend_name,
    read_checkpoint_interval,
    read_device_name,
    require_valid_variables,
)
from robustgen.errors import UserError

DEVICES = {
    "unset": (None, None),
    "empty": ("", None),
    "the CPU": ("cpu", "cpu"),
    "a GPU": ("cuda:1", "cuda:1"),
    "surrounding spaces": (" cuda ", "cuda"),
}


@pytest.mark.parametrize(("value", "expected"), DEVICES.values(), ids=DEVICES)
def test_the_device_is_read_from_the_environment(monkeypatch, value, expected):
    monkeypatch.delenv("ROBUSTGEN_DEVICE", raising=False)
    if value is not None:
        monkeypatch.setenv("ROBUSTGEN_DEVICE", value)
    assert read_device_name() == expected


INTERVALS = {
    "unset": (None, DEFAULT_CHECKPOINT_INTERVAL_S),
    "empty": ("", DEFAULT_CHECKPOINT_INTERVAL_S),
    "zero": ("0", 0.0),
    "a fraction": ("0.5", 0.5),
    "never": ("inf", float("inf")),
}


@pytest.mark.parametrize(("value", "expected"), INTERVALS.values(), ids=INTERVALS)
def test_the_interval_of_checkpoints_is_read_from_the_environment(monkeypatch, value, expected):
    monkeypatch.delenv("ROBUSTGEN_CHECKPOINT_SECONDS", raising=False)
    if value is not None:
        monkeypatch.setenv("ROBUSTGEN_CHECKPOINT_SECONDS", value)
    assert read_checkpoint_interval() == expected


@pytest.mark.parametrize("value", ["toaster", "gpu", "cuda:", "cuda:-1", "meta", "CPU", "cpu,cuda"])
def test_a_device_that_is_not_allowed_is_refused(monkeypatch, value):
    monkeypatch.setenv("ROBUSTGEN_DEVICE", value)
    sentence = f"^ROBUSTGEN_DEVICE is '{value}', but must be cpu, cuda or cuda:<number>$"
    with pytest.raises(UserError, match=sentence):
        read_device_name()


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "accelerated"), ("", "accelerated"), (" plain ", "plain")]
)
def test_the_backend_is_read_from_the_environment(monkeypatch, value, expected):
    monkeypatch.delenv("ROBUSTGEN_BACKEND", raising=False)
    if value is not None:
        monkeypatch.setenv("ROBUSTGEN_BACKEND", value)
    assert read_backend_name() == expected


@pytest.mark.parametrize("value", ["fast", "PLAIN", "torch"])
def test_a_backend_that_is_not_allowed_is_refused(monkeypatch, value):
    monkeypatch.setenv("ROBUSTGEN_BACKEND", value)
    sentence = f"^ROBUSTGEN_BACKEND is '{value}', but must be accelerated or plain$"
    with pytest.raises(UserError, match=sentence):
        require_valid_variables()


@pytest.mark.parametrize("value", ["often", "-1", "nan", "60s"])
def test_an_interval_that_is_not_a_number_is_refused(monkeypatch, value):
    monkeypatch.setenv("ROBUSTGEN_CHECKPOINT_SECONDS", value)
    with pytest.raises(UserError, match=f"SECONDS is '{value}', but must be a number of seconds"):
        read_checkpoint_interval()


READ_RULES = """
import json, os, runpy, sys
from types import SimpleNamespace
folder = sys.argv[1]
rules = SimpleNamespace(get_path_or_uri=lambda secret_free: f"{folder}/workflow/rules")
workflow = SimpleNamespace(basedir=folder, current_basedir=rules, configfiles=sys.argv[2:])
runpy.run_path(f"{folder}/workflow/rules/environment.smk", {"workflow": workflow})
names = ("MPLBACKEND", "PATH")
print(json.dumps({"executable": sys.executable, **{name: os.environ[name] for name in names}}))
"""
"""Runs the first rule file as Snakemake does, and prints the environment of jobs."""


def read_environment_rules(
    *options: str,
    project: Path = ROOT,
    python: str | Path = sys.executable,
    configs: Sequence[Path] = (),
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *options, "-c", READ_RULES, project, *configs],
        capture_output=True,
        text=True,
        env=environment(**variables),
    )


def test_figures_are_drawn_without_a_display():
    """Jupyter sets MPLBACKEND to a module that other environments do not have."""
    run = read_environment_rules(MPLBACKEND="module://matplotlib_inline.backend_inline")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["MPLBACKEND"] == "agg"


def test_an_interpreter_whose_path_needs_no_quotes_is_called_by_its_path():
    run = read_environment_rules(PATH="/bin")
    assert run.returncode == 0, run.stderr
    outcome = json.loads(run.stdout)
    assert outcome["executable"] == sys.executable
    assert outcome["PATH"] == "/bin"


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A clone with its own environment, in a folder whose name has characters of shells."""
    project = copy_project(
        tmp_path_factory.mktemp("clones") / "my {x} \"clone\" (1) 'é' $HOME & #%"
    )
    venv.create(project / ".venv", symlinks=True)
    (packages,) = (project / ".venv").glob("lib/python*/site-packages")
    installed = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "installed.pth").write_text("\n".join([str(project / "src"), *installed]))
    return project


def test_an_interpreter_whose_path_needs_quotes_is_found_by_the_search_path(clone):
    run = read_environment_rules(
        project=clone, python=clone / ".venv/bin/python", PYTHONPATH="", PATH="/bin"
    )
    assert run.returncode == 0, run.stderr
    outcome = json.loads(run.stdout)
    assert outcome["executable"] == "python"
    assert outcome["PATH"] == f"{clone}/.venv/bin:/bin"


@pytest.mark.slow
def test_a_clone_in_any_folder_runs_jobs(clone):
    results = clone / "my results"
    command = [clone / ".venv/bin/python", "-P", "-m", "snakemake", "--configfile", STUDY]
    command += ["--directory", results, "--cores=1", "--nocolor"]
    run = subprocess.run(
        [*map(str, command), "results/smoke/fonts/dataset/examples.parquet"],
        capture_output=True,
        text=True,
        cwd=clone,
        env=environment(PYTHONPATH=""),
    )
    assert run.returncode == 0, run.stderr[-3000:]
    log = results / "results/smoke/logs/fonts/codes.log"
    assert log.read_text().endswith("done\n")


def test_an_interpreter_that_no_command_can_call_is_one_sentence(tmp_path):
    python = tmp_path / "my python"
    python.symlink_to(sys.executable)
    site = [path for path in sys.path if path.endswith("site-packages")]
    paths = os.pathsep.join([str(ROOT / "src"), *site])
    run = read_environment_rules(python=python, PYTHONPATH=paths)
    assert run.returncode == 1
    assert run.stderr == (
        f"robustgen: jobs cannot call the interpreter {python}: install the environment in a "
        "folder whose path has only letters, digits, - and _\n"
    )


def test_a_package_of_another_clone_is_one_sentence(tmp_path):
    source = tmp_path / "src/robustgen"
    source.mkdir(parents=True)
    (tmp_path / "workflow/rules").mkdir(parents=True)
    shutil.copy(ROOT / "workflow/rules/environment.smk", tmp_path / "workflow/rules")
    run = read_environment_rules(project=tmp_path)
    assert run.returncode == 1
    assert run.stderr == (
        f"robustgen: the workflow is {tmp_path}, but the package robustgen is imported from "
        f"{ROOT}/src/robustgen: activate the environment of this clone and unset PYTHONPATH\n"
    )
    source.rmdir()  # without the source of the package, the installed package is used
    assert read_environment_rules(project=tmp_path).returncode == 0


def test_a_missing_package_is_one_sentence():
    run = read_environment_rules("-S", PYTHONPATH="")
    assert run.returncode == 1
    assert run.stderr.startswith("robustgen: the package robustgen is not installed for ")
    assert len(run.stderr.splitlines()) == 1


def test_a_wrong_variable_is_one_sentence_before_anything_runs():
    run = read_environment_rules(ROBUSTGEN_DEVICE="toaster")
    assert run.returncode == 1
    assert run.stderr.startswith("robustgen: ROBUSTGEN_DEVICE is 'toaster', but must be cpu")
    assert len(run.stderr.splitlines()) == 1


def test_a_config_value_that_yaml_misreads_is_one_sentence(tmp_path):
    config = tmp_path / "my study.yaml"
    config.write_text("sizes: [060]\n")
    run = read_environment_rules(configs=[STUDY, config])
    assert run.returncode == 1
    assert run.stderr == (
        f"robustgen: {config}, line 1: YAML reads 060 as the octal number 48; write 60, "
        'or "060" if it is text\n'
    )


SHELLS = {
    "a TMPDIR that does not exist": {"TMPDIR": "/nonexistent/tmp"},
    "the POSIX locale": {"LC_ALL": "POSIX", "LANG": "POSIX"},
    "a locale that is not installed": {"LC_ALL": "de_DE.ISO-8859-1"},
}


@pytest.mark.slow
@pytest.mark.parametrize("variables", SHELLS.values(), ids=SHELLS)
def test_other_shells_plan_the_study(tmp_path, variables):
    run = snakemake(tmp_path, "-n", **variables)
    assert run.returncode == 0, run.stderr[-2000:]
