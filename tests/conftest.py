"""Fixtures: a tiny FONTS of made-up letters, a cohort trained on it, and a finished study."""

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
from robustgen.data import affine
from robustgen.data.font_codes import draw
from robustgen.data.learned_manifold import Decoders, LearnedManifold
from robustgen.data.split import Split
from robustgen.io.schemas import PARAMETERS
from robustgen.models.cohort import Cohort
from robustgen.models.vaegan import VaeGan, encode
from robustgen.seeding import generator
from robustgen.specs import TrainConfig, VaeGanConfig
from robustgen.training.classifiers import Generators, train

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU; read when Triton is imported

HERE = Path(__file__).parents[1]
CLASSES = 4
RECIPE = VaeGanConfig(latent=4, channels=(8, 16), epochs=3, batch_size=20)
NAMES = "LTOP"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the finished study comes first, since both workers wait for it."""
    items.sort(key=lambda item: "study" not in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session", autouse=True)
def _deterministic():
    device.setup()


def letters(fonts: int = 6) -> torch.Tensor:
    """Four shapes in strokes of several widths: `(fonts * 4, 1, 28, 28)` in [0, 1]."""
    bank = torch.zeros(fonts, CLASSES, 1, 28, 28)
    for font in range(fonts):
        w = 2 + font % 3
        bank[font, 0, 0, 7:21, 7 : 7 + w] = 1  # L
        bank[font, 0, 0, 21 - w : 21, 7:19] = 1
        bank[font, 1, 0, 7:21, 13 : 13 + w] = 1  # T
        bank[font, 1, 0, 7 : 7 + w, 7:21] = 1
        bank[font, 2, 0, 7:21, 7:21] = 1  # a ring
        bank[font, 2, 0, 7 + w : 21 - w, 7 + w : 21 - w] = 0
        bank[font, 3, 0, 12 : 12 + w, 7:21] = 1  # a plus with a foot
        bank[font, 3, 0, 7:21, 12 : 12 + w] = 1
        bank[font, 3, 0, 21 - w : 21, 12:20] = 1
        bank[font] *= 1 - 0.05 * font
    return bank.flatten(0, 1)


def make_split(split: str, ranges: str = "easy", fonts: int = 6) -> Split:
    table = draw(
        study_seed=0,
        dataset="tiny",
        fonts=fonts,
        letters=NAMES,
        transformations=ranges,
        train_draws=40,
        test_draws=10,
    ).to_pandas()
    rows = table[table["split"] == split]
    return Split(
        bank=letters(fonts),
        source=torch.from_numpy(rows["source"].to_numpy().astype(np.int64)),
        labels=torch.from_numpy(rows["label"].to_numpy().astype(np.int64)),
        codes=torch.tensor(rows[list(PARAMETERS)].to_numpy()),
        ranges=affine.bounds(ranges),
        classes=tuple(NAMES),
    )


CPU_BACKEND = make_cpu_backend()
"""The backend of jobs on a CPU."""


def make_cohort(
    seeds: list[int], shape=(1, 28, 28), classes: int = CLASSES, backend: Backend = CPU_BACKEND
) -> Cohort:
    cohort = Cohort("convnet", shape, classes, seeds, backend)
    cohort.initialize([generator(0, "initialization", seed) for seed in seeds])
    return cohort


def make_generators(seeds: list[int]) -> Generators:
    return Generators(
        [generator(0, "batches", seed) for seed in seeds],
        [generator(0, "training attacks", seed) for seed in seeds],
    )


SCHEDULE = TrainConfig(
    epochs=4, batch_size=50, learning_rate=0.01, learning_rate_decay=0.95, weight_decay=1e-4
)


def vaegan(name: str, recipe: VaeGanConfig = RECIPE, shape=(1, 28, 28)) -> VaeGan:
    model = VaeGan(shape, recipe)
    model.initialize(generator(0, "initialization", name))
    return model


def with_manifolds(split: Split) -> Split:
    """The split with codes on untrained manifolds: of each class, and of all."""
    of_class = [vaegan(name).eval().requires_grad_(False) for name in NAMES]
    learned = {}
    for space, models in (("learned_manifold", of_class), ("data_manifold", of_class[:1])):
        codes = encode(models, split)
        learned[space] = LearnedManifold(codes, Decoders([model.decoder for model in models]))
    return replace(split, learned=learned)


@pytest.fixture(scope="session")
def training_images() -> Split:
    return with_manifolds(make_split("train").take(slice(480)))


@pytest.fixture(scope="session")
def test_images() -> Split:
    return with_manifolds(make_split("test"))


@pytest.fixture(scope="session")
def trained(training_images: Split) -> Cohort:
    """Three models that err on few test images."""
    seeds = [0, 1, 2]
    cohort = make_cohort(seeds)
    train(cohort, training_images, SCHEDULE, None, make_generators(seeds))
    return cohort


SMOKE = yaml.safe_load((HERE / "config" / "smoke.yaml").read_text())


PART = {
    "methods": {name: SMOKE["methods"][name] for name in ("normal", "on_true_manifold")},
    "attacks": {name: SMOKE["attacks"][name] for name in ("on_true_manifold", "regular")},
    "distances": {**SMOKE["distances"], "attacks": ["on_true_manifold", "regular"]},
}
"""A part of the smoke study, whose jobs give the same bytes as in the whole."""


def changed(tmp_path: Path, **keys) -> Path:
    """The smoke study with other top-level keys, as a file."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**SMOKE, **keys}, sort_keys=False))
    return path


def environment(project: Path = HERE, **variables: str) -> dict[str, str]:
    """That of a command on the CPU, with the code of `project`."""
    paths = [str(project / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    setting = {"ROBUSTGEN_DEVICE": "cpu", "PYTHONPATH": os.pathsep.join(paths)}
    return {**os.environ, **setting, **variables}


STUDY = HERE / "config/smoke.yaml"


def command(folder: Path, *args: str | Path, config: Path, project: Path = HERE) -> list[str]:
    parts = [sys.executable, "-m", "snakemake", "--snakefile", project / "Snakefile"]
    parts += ["--directory", folder, "--configfile", config, "--nocolor", *args]
    return [str(part) for part in parts]


def snakemake(
    folder: Path,
    *args: str | Path,
    config: Path = STUDY,
    project: Path = HERE,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Snakemake in `folder`, on the CPU, with the code of `project`: what it returned and said."""
    whole_command = command(folder, *args, config=config, project=project)
    env = environment(project, **variables)
    if "-n" in args and not variables:
        return dry_runs.run_snakemake(whole_command[3:], env)
    return subprocess.run(whole_command, capture_output=True, text=True, env=env)


def started(
    folder: Path,
    *args: str | Path,
    config: Path = STUDY,
    project: Path = HERE,
    **variables: str,
) -> subprocess.Popen[bytes]:
    """Snakemake in `folder` as the first of a group of processes; what it says is in `said`."""
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            command(folder, *args, config=config, project=project),
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment(project, **variables),
            start_new_session=True,
            # Ctrl-C is ignored by what runs in the background of a script, and by its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def copied_project(folder: Path) -> Path:
    """The project's own files, as a clone has them."""
    folder.mkdir()
    for name in ("Snakefile", "src", "workflow", "config", "profiles"):
        where, ignored = folder / name, shutil.ignore_patterns("__pycache__", "*.egg-info")
        if (HERE / name).is_dir():
            shutil.copytree(HERE / name, where, ignore=ignored, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(HERE / name, where)
    return folder


def rewritten(path: Path, old: str, new: str) -> None:
    """Put `new` where `old` stands first."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def wanted(run: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Jobs by rule that a dry run lists."""
    assert run.returncode == 0, run.stderr[-3000:]
    lines = run.stdout.splitlines() + run.stderr.splitlines()
    if any("Nothing to be done" in line for line in lines):
        return {}
    first = next(i for i, line in enumerate(lines) if line.startswith("total"))
    counts = {}
    for line in reversed(lines[:first]):
        if line.startswith("---"):
            break
        rule, count = line.split()
        counts[rule] = int(count)
    return counts


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Path:
    """The folder of a finished smoke study, run once for all workers.

    ROBUSTGEN_TEST_STUDY names the folder, so that two calls of pytest can share it.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = Path(os.environ.get("ROBUSTGEN_TEST_STUDY", base / "study"))
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            run = snakemake(folder, "--cores", "2")
            (folder / "said").write_text(run.stderr)
            (folder / "printed").write_text(run.stdout)
            (folder / "returned").write_text(str(run.returncode))
    assert (folder / "returned").read_text() == "0", (folder / "said").read_text()[-3000:]
    return folder


def same(study: Path, folder: Path, results: str = "results") -> int:
    """Compare files below `folder/results` byte for byte with those of `study`; count them."""
    suffixes = (".parquet", ".safetensors", ".png", ".pdf", ".txt")
    made = [path for path in (folder / results).rglob("[!.]*") if path.suffix in suffixes]
    for path in made:
        assert filecmp.cmp(study / path.relative_to(folder), path, shallow=False), path
    return len(made)
