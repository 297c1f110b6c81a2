"""Measure how long a job takes to start and end, besides its computation.

    python benchmarks/starting.py

A process starts like a job of Snakemake, reads a data set of 100,000 examples, writes a table, and
ends: as in this package, and without each of the measures that shorten it. Numbers are seconds of
the processor for the process; the variants take turns. Compare their ratios.
"""

import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from robustgen.data import font_prototypes as fonts
from robustgen.data.font_codes import draw_codes
from robustgen.io.parquet import write_table
from robustgen.io.tensors import save_tensors

ROUNDS, LETTERS = 9, "ABCDEFGHIJ"
JOB = """
import sys
from types import SimpleNamespace

{first_statement}
from robustgen import device
from robustgen.evaluation import attacks as evaluation
from robustgen.jobs import runtime as job
from robustgen.training import classifiers as training
from robustgen.data.split import load_split
from robustgen.io.parquet import write_table
from robustgen.models import vaegan
from robustgen.io.schemas import PREDICTIONS

script = SimpleNamespace(rule="none", scriptdir="nowhere", params=None)
with job.run_job("log", script):
    compute_device = device.setup()
    test = load_split("images.safetensors", "examples.parquet", "test", compute_device)
    column = test.labels.numpy()
    write_table("table.parquet", dict.fromkeys(PREDICTIONS.names, column), PREDICTIONS)
    {last_statement}
"""
VARIANTS = {
    "as in this package": ("", ""),
    "with garbage collection during imports": ("import torch", ""),
    "with PyTorch's Adam": (
        "",
        "import torch; torch.optim.Adam([torch.zeros(3, requires_grad=True)]).step()",
    ),
    "with an import of pandas": ("", "import pandas, pyarrow.compute, pyarrow.dataset"),
    "with a full shutdown of the interpreter": ("", "job._exit_now = lambda failure: None"),
}
"""The first statement of a job, and the last one."""


def write_data(folder: Path) -> None:
    """Write a data set as a job reads it."""
    prototypes = torch.as_tensor(fonts.draw_prototypes(100, LETTERS).images)
    settings = dict(study_seed=0, dataset="fonts", fonts=100, letters=LETTERS)
    table = draw_codes(
        **settings, transformations="hard", train_images_per_glyph=96, test_images_per_glyph=4
    )
    save_tensors(folder / "images.safetensors", {"images": prototypes.flatten(0, 1)[:, None]}, {})
    write_table(folder / "examples.parquet", table, table.schema)


def measure_cpu_seconds(variant: str, folder: Path) -> float:
    """Run one job in `folder`, and return its seconds of the processor."""
    first_statement, last_statement = VARIANTS[variant]
    code = JOB.format(first_statement=first_statement, last_statement=last_statement)
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime


def main() -> None:
    """Measure all variants, and print their medians."""
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        for _ in range(ROUNDS):
            for variant, times in seconds.items():
                times.append(measure_cpu_seconds(variant, folder))
    reference = median(seconds["as in this package"])
    for variant, times in seconds.items():
        ratio = median(times) / reference
        print(f"a job, {variant}: {median(times):.2f} s, {ratio:.2f} times as long")


if __name__ == "__main__":
    main()
