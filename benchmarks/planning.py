"""Measure jobs, seconds and memory of planning a study, and of one with ten times as many seeds.

    python benchmarks/planning.py [config/paper.yaml]

Each is a dry run in an empty folder, so that all jobs are planned.
"""

import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def plan(config: Path, seeds: int) -> str:
    """Plan the study with a number of seeds, and describe the result."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules"]
        command += ["--snakefile", ROOT / "Snakefile", "--configfile", config]
        command += ["--directory", folder, "--config", f"seeds={seeds}"]
        start = time.monotonic()
        run = subprocess.run(command, capture_output=True, text=True)
        seconds = time.monotonic() - start
    if run.returncode:
        sys.exit(run.stdout + run.stderr)
    jobs = re.findall(r"^total\s+(\d+)$", run.stdout + run.stderr, re.M)[0]
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    return f"{seeds} seeds: {jobs} jobs, {seconds:.1f} s, {megabytes:.0f} MB"


if __name__ == "__main__":
    config = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "config/paper.yaml"
    study = yaml.safe_load(config.read_text(encoding="utf-8"))
    for factor in (1, 10):
        print(plan(config, study["seeds"] * factor))
