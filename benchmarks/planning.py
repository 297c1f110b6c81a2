"""Jobs, seconds and memory of planning a study, and the same with ten times as many seeds.

    python benchmarks/planning.py [config/paper.yaml]

A dry run in an empty folder, so that every job is planned.
"""

import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

HERE = Path(__file__).parents[1]
config = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "config/paper.yaml"
study = yaml.safe_load(config.read_text(encoding="utf-8"))

for times in (1, 10):
    seeds = study["seeds"] * times
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules"]
        command += ["--snakefile", HERE / "Snakefile", "--configfile", config]
        command += ["--directory", folder, "--config", f"seeds={seeds}"]
        start = time.monotonic()
        run = subprocess.run(command, capture_output=True, text=True)
        seconds = time.monotonic() - start
    if run.returncode:
        sys.exit(run.stdout + run.stderr)
    (jobs,) = re.findall(r"^total\s+(\d+)$", run.stdout + run.stderr, re.M)[:1]
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    print(f"{seeds} seeds: {jobs} jobs, {seconds:.1f} s, {megabytes:.0f} MB")
