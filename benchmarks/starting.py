"""How long a job takes to start and end, before and after what it is for.

    python benchmarks/starting.py

A job's process is started as Snakemake starts it, reads a data set of 100,000 examples, writes a
table, and ends: as it is, and with each of its savings undone. Seconds of the processor, of the
process alone, in turns; what counts is the ratio.
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

{before}
from robustgen import device
from robustgen.evaluation import attacks as evaluation
from robustgen.jobs import runtime as job
from robustgen.training import classifiers as training
from robustgen.data.split import load
from robustgen.io.parquet import write_table
from robustgen.models import vaegan
from robustgen.io.schemas import PREDICTIONS

script = SimpleNamespace(rule="none", scriptdir="nowhere", params=None)
with job.run_job("log", script):
    here = device.setup()
    test = load("images.safetensors", "examples.parquet", "test", here)
    column = test.labels.numpy()
    write_table("made.parquet", dict.fromkeys(PREDICTIONS.names, column), PREDICTIONS)
    {after}
"""
WAYS = {
    "as it is": ("", ""),
    "with garbage looked for while it imports": ("import torch", ""),
    "with pandas imported": ("", "import pandas, pyarrow.compute, pyarrow.dataset"),
    "with everything taken apart at its end": ("", "job._exit_now = lambda failure: None"),
}


def data(folder: Path) -> None:
    """A data set as a job reads it."""
    bank = torch.as_tensor(fonts.draw_prototypes(100, LETTERS).images).flatten(0, 1)[:, None]
    drawn = dict(study_seed=0, dataset="fonts", fonts=100, letters=LETTERS)
    table = draw_codes(**drawn, transformations="hard", train_draws=96, test_draws=4)
    save_tensors(folder / "images.safetensors", {"images": bank}, {})
    write_table(folder / "examples.parquet", table, table.schema)


def seconds(way: str, folder: Path) -> float:
    """Of the processor, for one job."""
    before, after = WAYS[way]
    code = JOB.format(before=before, after=after)
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime


with TemporaryDirectory() as name:
    data(Path(name))
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way, times in taken.items():
            times.append(seconds(way, Path(name)))
    first = median(taken["as it is"])
    for way, times in taken.items():
        print(f"a job, {way}: {median(times):.2f} s, {median(times) / first:.2f} times as long")
