"""The Makefile, with fake interpreters that record their calls: nothing is installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

PYTHON = f"""#!{sys.executable} -S
import json, os, sys
arguments = sys.argv[1:]
if arguments[0] == ".ci/installed_clone.py":
    print(os.environ.get("INSTALLED", "this"))
else:
    call = {{"python": sys.argv[0], "arguments": arguments, "variables": dict(os.environ)}}
    with open("calls", "a") as file:
        print(json.dumps(call), file=file)
"""
"""A fake interpreter: it records its calls, and prints the clone of its package."""


def write_interpreter(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PYTHON)
    path.chmod(0o755)


@pytest.fixture
def clone(tmp_path) -> Path:
    """A clone with a complete environment, in a folder whose name has characters of shells."""
    folder = tmp_path / "my (clone) $HOME 'é' & \"x\""
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/installed_clone.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    write_interpreter(folder / ".venv/bin/python")
    (folder / ".venv/pyvenv.cfg").touch()
    for extra in ("", "-test", "-lint", "-docs", "-slurm", "-bench"):
        (folder / f".venv/.ready{extra}").touch()
    return folder


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=inherited | variables,
        capture_output=True,
        text=True,
    )


def read_calls(folder: Path) -> list[dict]:
    """The calls of interpreters in `folder`."""
    path = folder / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


PYTEST = '".venv/bin/python" -m pytest --numprocesses 2 --dist worksteal'

TARGETS = {
    "demo": '".venv/bin/python" -P -m snakemake --cores all --report results/demo/report.html',
    "test": PYTEST + "\n",
    "test-slow": PYTEST + " -m 'slow and not long'\n",
    "test-long": PYTEST + " -m long\n",
    "test-slurm": '".venv/bin/python" -m pytest -m slurm -rs',
    "lint": '".venv/bin/python" -m snakefmt --line-length 100 --check Snakefile workflow',
    "docs": '".venv/bin/python" -m mkdocs build --strict',
    "bench": '".venv/bin/python" benchmarks/bench.py results/benchmarks',
    "plan": 'exec ".venv/bin/python" -P -m robustgen.jobs.plan --cores',
    "lock": "python3 tests/lock.py .lock.json > constraints.txt",
    "clean": 'rm -rf ".venv"',
}


@pytest.mark.parametrize(("target", "command"), TARGETS.items(), ids=TARGETS)
def test_every_target_calls_the_environment_of_the_clone(clone, target, command):
    run = make(clone, "--dry-run", target)
    assert run.returncode == 0, run.stderr
    assert command in run.stdout
    assert "-m venv" not in run.stdout
    assert "--editable '.[test]'" not in run.stdout


def test_an_environment_is_set_up_once(clone):
    shutil.rmtree(clone / ".venv")
    run = make(clone, "--dry-run", "lint", PYTHON="no-such-python")
    assert run.returncode == 0, run.stderr
    assert 'no-such-python -m venv ".venv"' in run.stdout
    assert "--editable .\n" in run.stdout
    assert "--editable '.[lint]'\n" in run.stdout


CONFIGS = {
    "a name with spaces": ("my study.yaml", ["my study.yaml"]),
    "several files": ("a.yaml b.yaml", ["a.yaml", "b.yaml"]),
    "a file that does not exist": ("none.yaml", ["none.yaml"]),
    "a pattern": ("*.yaml", ["*.yaml"]),
    "quotes": ('it\'s "mine".yaml', ['it\'s "mine".yaml']),
}


@pytest.mark.parametrize(("config", "files"), CONFIGS.values(), ids=CONFIGS)
def test_the_config_of_a_plan_is_one_file_or_several(clone, config, files):
    for name in ("my study.yaml", 'it\'s "mine".yaml', "a.yaml", "b.yaml"):
        (clone / name).touch()
    run = make(clone, "plan", f"CONFIG={config}", "JOBS=3", "SPEEDS=my speeds.json")
    assert run.returncode == 0, run.stderr
    options = ["--cores", "3", "--speeds", "my speeds.json", "--configfile", *files]
    (call,) = read_calls(clone)
    assert call["arguments"] == ["-P", "-m", "robustgen.jobs.plan", *options]


def test_the_default_of_a_plan_is_the_demo(clone):
    assert make(clone, "plan").returncode == 0
    (call,) = read_calls(clone)
    assert call["arguments"][-2:] == ["--configfile", "config/config.yaml"]
    assert "--speeds" not in call["arguments"]


@pytest.mark.parametrize("target", ["demo", "test", "lint", "plan", "clean"])
def test_an_environment_of_another_clone_is_refused(clone, target):
    shared = clone.parent / "shared"
    shutil.copytree(clone / ".venv", shared)
    (shared / ".ready").unlink()  # so that it would be set up
    run = make(clone, target, f"VENV={shared}", INSTALLED="/other/src/robustgen")
    assert run.returncode != 0
    assert run.stderr.startswith(
        f"robustgen: the environment {shared} has the package of another clone, "
        "/other/src/robustgen: name another VENV, or remove the environment\n"
    )
    assert read_calls(clone) == []
    assert (shared / "bin/python").exists()


def test_a_copied_environment_is_refused_but_can_be_removed(clone):
    run = make(clone, "plan", INSTALLED="/other/src/robustgen")
    assert run.returncode != 0
    assert "the environment .venv has the package of another clone" in run.stderr
    assert make(clone, "clean", INSTALLED="/other/src/robustgen").returncode == 0
    assert not (clone / ".venv").exists()


def test_the_environment_of_another_project_is_not_removed(clone):
    """It has no package robustgen and was not set up by make."""
    environment = clone.parent / "other"
    shutil.copytree(clone / ".venv", environment)
    (environment / ".ready").unlink()
    run = make(clone, "clean", f"VENV={environment}", INSTALLED="")
    assert run.returncode != 0
    assert run.stderr.startswith(
        f"robustgen: {environment} was not set up by make, which does not remove"
    )
    assert environment.exists()


def test_a_variable_of_the_shell_does_not_choose_the_study(clone):
    assert make(clone, "plan", CONFIG="Release").returncode == 0
    (call,) = read_calls(clone)
    assert call["arguments"][-1] == "config/config.yaml"


def test_a_moved_clone_is_installed_again_without_its_dependencies(clone):
    assert make(clone, "plan", INSTALLED="").returncode == 0
    installed, planned = read_calls(clone)
    assert installed["arguments"][:3] == ["-m", "pip", "install"]
    assert installed["arguments"][-2:] == [".", "--no-deps"]
    assert planned["arguments"][2] == "robustgen.jobs.plan"


def test_an_environment_without_its_interpreter_is_one_sentence(clone):
    (clone / ".venv/bin/python").unlink()
    run = make(clone, "plan", PYTHON="no-such-python")
    assert run.returncode != 0
    assert (
        "robustgen: .venv has no working Python: remove it, to have it set up again" in run.stderr
    )


@pytest.mark.parametrize("target", ["plan", "clean"])
def test_a_folder_that_is_not_a_virtual_environment_is_refused(clone, target):
    """For example a conda environment, which has no pyvenv.cfg, or a home folder."""
    folder = clone.parent / "home"
    write_interpreter(folder / "bin/python")
    run = make(clone, target, f"VENV={folder}")
    assert run.returncode != 0
    assert run.stderr.startswith(
        f"robustgen: {folder} is not an environment of Python's venv: name another VENV, or "
        "activate this one and leave VENV out\n"
    )
    assert (folder / "bin/python").exists()
    assert read_calls(clone) == []


ACTIVE = {
    "it has this clone": ("this", [], True),
    "it has another clone": ("/other/src/robustgen", [], False),
    "it lacks the package": ("", [], False),
    "an environment is named": ("this", ["VENV=.venv"], False),
}


@pytest.mark.parametrize(("package", "options", "used"), ACTIVE.values(), ids=ACTIVE)
def test_the_active_environment_is_used_if_this_clone_is_installed(clone, package, options, used):
    shutil.rmtree(clone / ".venv")
    active = clone.parent / "active"
    write_interpreter(active / "python3")
    variables = {"INSTALLED": package, "PATH": f"{active}:{os.environ['PATH']}"}
    planned = make(clone, "--dry-run", "plan", *options, **variables)
    assert planned.returncode == 0, planned.stderr
    assert ("exec python3 -P -m robustgen.jobs.plan" in planned.stdout) == used
    assert ("-m venv" in planned.stdout) != used
    demo = make(clone, "--dry-run", "demo", *options, **variables)
    first = "ROBUSTGEN_SUMMARY=no python3 -P -m snakemake --cores all"
    assert (first in demo.stdout.splitlines()) == used
    # Extras are not installed into an active environment that make has not set up.
    assert "-m venv" in make(clone, "--dry-run", "test", *options, **variables).stdout


def test_the_environment_of_the_clone_has_priority_over_the_active_one(clone):
    active = clone.parent / "active"
    write_interpreter(active / "python3")
    run = make(clone, "--dry-run", "plan", PATH=f"{active}:{os.environ['PATH']}")
    assert 'exec ".venv/bin/python" -P -m robustgen.jobs.plan' in run.stdout


UNWANTED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")


def test_variables_that_add_other_modules_are_removed(clone):
    run = make(clone, "plan", **dict.fromkeys(UNWANTED, "/elsewhere"), ROBUSTGEN_DEVICE="cpu")
    assert run.returncode == 0, run.stderr
    (call,) = read_calls(clone)
    assert not set(UNWANTED) & set(call["variables"])
    assert call["variables"]["ROBUSTGEN_DEVICE"] == "cpu"


CACHES = {
    "a home that is no folder": ({"HOME": "/dev/null"}, True),
    "no home": ({"HOME": ""}, True),
    "a cache that is no folder": ({"XDG_CACHE_HOME": "/dev/null/cache"}, True),
    "a home": ({"HOME": "{folder}"}, False),
    "a cache": ({"HOME": "/dev/null", "XDG_CACHE_HOME": "{folder}/caches"}, False),
}


@pytest.mark.parametrize(("variables", "replaced"), CACHES.values(), ids=CACHES)
def test_a_cache_folder_that_cannot_be_written_is_replaced(clone, variables, replaced):
    settings = {name: value.format(folder=clone.parent) for name, value in variables.items()}
    run = make(clone, "plan", **{"XDG_CACHE_HOME": "", **settings})
    assert run.returncode == 0, run.stderr
    (call,) = read_calls(clone)
    cache = f"{clone}/.snakemake/cache"
    assert (call["variables"]["XDG_CACHE_HOME"] == cache) == replaced
    assert (call["variables"].get("MPLCONFIGDIR") == f"{cache}/matplotlib") == replaced


def test_an_environment_whose_path_make_cannot_use_is_one_sentence(clone):
    run = make(clone, "plan", "VENV=my environment")
    assert run.returncode != 0
    assert len(run.stderr.splitlines()) == 1
    assert (
        'VENV is "my environment", but make needs the path of a folder without spaces' in run.stderr
    )


@pytest.mark.parametrize("mask", ["777", "100"])
def test_a_umask_that_hides_files_from_their_owner_is_one_sentence(clone, mask):
    command = ["sh", "-c", f"umask {mask}; exec make plan"]
    run = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    assert run.returncode != 0
    assert len(run.stderr.splitlines()) == 1
    assert f"the umask 0{mask} hides new files from their owner: set another" in run.stderr


def test_a_umask_that_hides_files_from_others_is_allowed(clone):
    run = subprocess.run(["sh", "-c", "umask 077; exec make --dry-run plan"], cwd=clone)
    assert run.returncode == 0


def installed_clone(folder: Path, *requirements: str, source: Path | None) -> str:
    path = {} if source is None else {"PYTHONPATH": str(source)}
    return subprocess.run(
        [sys.executable, "-S", ROOT / ".ci/installed_clone.py", *requirements],
        cwd=folder,
        env=path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_the_clone_of_an_interpreter_is_printed(tmp_path):
    elsewhere = tmp_path / "other clone/src"
    (elsewhere / "robustgen").mkdir(parents=True)
    (elsewhere / "robustgen/__init__.py").touch()
    (tmp_path / "link").symlink_to(ROOT / "src")
    assert installed_clone(ROOT, source=ROOT / "src") == "this"
    assert installed_clone(ROOT, source=tmp_path / "link") == "this"
    assert installed_clone(ROOT, "json", source=ROOT / "src") == "this"
    assert installed_clone(ROOT, "no_such_module", source=ROOT / "src") == ""
    assert installed_clone(ROOT, source=elsewhere) == str(elsewhere / "robustgen")
    assert installed_clone(ROOT, source=None) == ""
