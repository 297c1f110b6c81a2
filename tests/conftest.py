"""Fixtures and helpers: a small data set of letters, a cohort trained on it, a smoke study."""

import filecmp
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dry_runs
import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock

from robustgen import device
from robustgen.acceleration.backends import make_cpu_backend
from robustgen.backend import Backend
from robustgen.data.decoders import ClassDecoders, LearnedManifold, parameter_bounds
from robustgen.data.font_codes import draw_codes
from robustgen.data.split import Split
from robustgen.io.schemas import PARAMETERS
from robustgen.models.cohort import Cohort
from robustgen.models.vaegan import VaeGan, encode
from robustgen.sampling import make_generator
from robustgen.specs import TrainConfig, VaeGanConfig
from robustgen.training.classifiers import Generators, train

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU; read when Triton is imported

ROOT = Path(__file__).parents[1]
CLASSES = 4
RECIPE = VaeGanConfig(latent_dim=4, channels=(8, 16), epochs=3, batch_size=20)
NAMES = "LTOP"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that need the finished study first, because both workers wait for it."""
    items.sort(key=lambda item: "study" not in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session", autouse=True)
def _deterministic():
    device.setup()


def letters(fonts: int = 6) -> torch.Tensor:
    """Draw four shapes per font, with strokes of its width: `(fonts * 4, 1, 28, 28)` in [0, 1]."""
    prototypes = torch.zeros(fonts, CLASSES, 1, 28, 28)
    for font in range(fonts):
        width = 2 + font % 3
        prototypes[font, 0, 0, 7:21, 7 : 7 + width] = 1  # L
        prototypes[font, 0, 0, 21 - width : 21, 7:19] = 1
        prototypes[font, 1, 0, 7:21, 13 : 13 + width] = 1  # T
        prototypes[font, 1, 0, 7 : 7 + width, 7:21] = 1
        prototypes[font, 2, 0, 7:21, 7:21] = 1  # a ring
        prototypes[font, 2, 0, 7 + width : 21 - width, 7 + width : 21 - width] = 0
        prototypes[font, 3, 0, 12 : 12 + width, 7:21] = 1  # a plus with a foot
        prototypes[font, 3, 0, 7:21, 12 : 12 + width] = 1
        prototypes[font, 3, 0, 21 - width : 21, 12:20] = 1
        prototypes[font] *= 1 - 0.05 * font
    return prototypes.flatten(0, 1)


def make_split(split: str, ranges: str = "easy", fonts: int = 6) -> Split:
    """Return the split "train" or "test" of the drawn letters, with codes in the named ranges."""
    table = draw_codes(
        study_seed=0,
        dataset="tiny",
        fonts=fonts,
        letters=NAMES,
        transformations=ranges,
        train_images_per_glyph=40,
        test_images_per_glyph=10,
    ).to_pandas()
    rows = table[table["split"] == split]
    return Split(
        source_images=letters(fonts),
        source_index=torch.from_numpy(rows["source_index"].to_numpy().astype(np.int64)),
        labels=torch.from_numpy(rows["label"].to_numpy().astype(np.int64)),
        codes=torch.tensor(rows[list(PARAMETERS)].to_numpy()),
        ranges=parameter_bounds(ranges),
        classes=tuple(NAMES),
    )


CPU_BACKEND = make_cpu_backend()
"""The backend of jobs on a CPU."""


def make_cohort(
    seeds: list[int], shape=(1, 28, 28), classes: int = CLASSES, backend: Backend = CPU_BACKEND
) -> Cohort:
    """Return an initialized, untrained cohort."""
    cohort = Cohort("convnet", shape, classes, seeds, backend)
    cohort.initialize([make_generator(0, "initialization", seed) for seed in seeds])
    return cohort


def make_generators(seeds: list[int]) -> Generators:
    """Return new generators for the training of models with these seeds."""
    return Generators(
        [make_generator(0, "batches", seed) for seed in seeds],
        [make_generator(0, "training attacks", seed) for seed in seeds],
    )


SCHEDULE = TrainConfig(
    epochs=4, batch_size=50, learning_rate=0.01, learning_rate_decay=0.95, weight_decay=1e-4
)


def vaegan(name: str, config: VaeGanConfig = RECIPE, shape=(1, 28, 28)) -> VaeGan:
    """Return an untrained VAE-GAN, initialized from its name."""
    model = VaeGan(shape, config)
    model.initialize(make_generator(0, "initialization", name))
    return model


def with_manifolds(split: Split) -> Split:
    """Return the split with codes on untrained manifolds, one per class and one for all classes."""
    class_models = [vaegan(name).eval().requires_grad_(False) for name in NAMES]
    learned = {}
    for space, models in (("learned_manifold", class_models), ("data_manifold", class_models[:1])):
        codes = encode(models, split)
        learned[space] = LearnedManifold(codes, ClassDecoders([model.decoder for model in models]))
    return replace(split, learned=learned)


@pytest.fixture(scope="session")
def training_images() -> Split:
    """480 training images with codes on untrained learned manifolds."""
    return with_manifolds(make_split("train").select(slice(480)))


@pytest.fixture(scope="session")
def test_images() -> Split:
    """All test images with codes on untrained learned manifolds."""
    return with_manifolds(make_split("test"))


@pytest.fixture(scope="session")
def trained(training_images: Split) -> Cohort:
    """Three trained models, which misclassify few test images."""
    seeds = [0, 1, 2]
    cohort = make_cohort(seeds)
    train(cohort, training_images, SCHEDULE, None, make_generators(seeds))
    return cohort


STUDY = ROOT / "config/smoke.yaml"
SMOKE = yaml.safe_load(STUDY.read_text())
PART = {
    "methods": {name: SMOKE["methods"][name] for name in ("normal", "on_true_manifold")},
    "attacks": {name: SMOKE["attacks"][name] for name in ("on_true_manifold", "regular")},
    "distances": {**SMOKE["distances"], "attacks": ["on_true_manifold", "regular"]},
}
"""Keys that restrict the smoke study to a part, whose jobs give the bytes of the whole study."""


def write_config(tmp_path: Path, **keys) -> Path:
    """Write the config of the smoke study with other top-level keys and return its path."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**SMOKE, **keys}, sort_keys=False))
    return path


def environment(project: Path = ROOT, **variables: str) -> dict[str, str]:
    """Return the environment of a command that runs on the CPU with the code of `project`."""
    paths = [str(project / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"ROBUSTGEN_DEVICE": "cpu", "PYTHONPATH": os.pathsep.join(paths)}
    return {**os.environ, **settings, **variables}


def command(folder: Path, *args: str | Path, config: Path, project: Path = ROOT) -> list[str]:
    """Return the command that runs Snakemake in `folder` with the workflow of `project`."""
    parts = [sys.executable, "-m", "snakemake", "--snakefile", project / "Snakefile"]
    parts += ["--directory", folder, "--configfile", config, "--nocolor", *args]
    return [str(part) for part in parts]


def snakemake(
    folder: Path,
    *args: str | Path,
    config: Path = STUDY,
    project: Path = ROOT,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in `folder`, on the CPU, with the code of `project`, to its end.

    Args:
        folder: the working directory.
        args: targets and options of Snakemake.
        config: the config file of the study.
        project: the clone whose workflow and package run.
        variables: further environment variables. With one, a dry run is a child process too.

    Returns:
        The exit status and the output.
    """
    full_command = command(folder, *args, config=config, project=project)
    env = environment(project, **variables)
    if "-n" in args and not variables:
        return dry_runs.run_snakemake(full_command[3:], env)
    return subprocess.run(full_command, capture_output=True, text=True, env=env)


def start_snakemake(
    folder: Path,
    *args: str | Path,
    config: Path = STUDY,
    project: Path = ROOT,
    **variables: str,
) -> subprocess.Popen[bytes]:
    """Start Snakemake in `folder` as the leader of a process group.

    The arguments are those of `snakemake`. The output is written to `folder/output.txt`.
    """
    with (folder / "output.txt").open("wb") as log:
        return subprocess.Popen(
            command(folder, *args, config=config, project=project),
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(project, **variables),
            start_new_session=True,
            # A process in the background of a script ignores Ctrl-C, and so do its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def copy_project(folder: Path) -> Path:
    """Copy workflow, package, configs and profiles to a new folder, and return the folder."""
    folder.mkdir()
    for name in ("Snakefile", "src", "workflow", "config", "profiles"):
        target, ignore = folder / name, shutil.ignore_patterns("__pycache__", "*.egg-info")
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=ignore, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(ROOT / name, target)
    return folder


def replace_text(path: Path, old: str, new: str) -> None:
    """Replace the first occurrence of `old` in a file by `new`; there must be one."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def count_planned_jobs(run: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Return the number of jobs of each rule that a dry run lists; empty if no job would run."""
    assert run.returncode == 0, run.stderr[-3000:]
    lines = run.stdout.splitlines() + run.stderr.splitlines()
    if any("Nothing to be done" in line for line in lines):
        return {}
    total_line = next(i for i, line in enumerate(lines) if line.startswith("total"))
    counts = {}
    for line in reversed(lines[:total_line]):
        if line.startswith("---"):
            break
        rule, count = line.split()
        counts[rule] = int(count)
    return counts


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Path:
    """The working directory of a finished smoke study, which is run once for all workers.

    The variable ROBUSTGEN_TEST_STUDY names the folder, so that two calls of pytest can share it.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = Path(os.environ.get("ROBUSTGEN_TEST_STUDY") or base / "study")
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            run = snakemake(folder, "--cores", "2")
            (folder / "stderr.txt").write_text(run.stderr)
            (folder / "stdout.txt").write_text(run.stdout)
            (folder / "returncode.txt").write_text(str(run.returncode))
    returncode, stderr = (folder / f"{name}.txt" for name in ("returncode", "stderr"))
    assert returncode.read_text() == "0", stderr.read_text()[-3000:]
    return folder


def count_equal_files(study: Path, folder: Path, results: str = "results") -> int:
    """Require that the results in `folder` have the bytes of those in `study`; count the files.

    Args:
        study: the working directory of a study.
        folder: the working directory of another run of the study, or of a part of it.
        results: folder below both, whose files are compared.
    """
    suffixes = (".parquet", ".safetensors", ".png", ".pdf", ".txt")
    paths = [path for path in (folder / results).rglob("[!.]*") if path.suffix in suffixes]
    for path in paths:
        assert filecmp.cmp(study / path.relative_to(folder), path, shallow=False), path
    return len(paths)
