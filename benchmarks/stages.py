"""Time and memory of each stage of a finished study, from the benchmark files of its jobs.

    python benchmarks/stages.py results/demo

Seconds are summed over the jobs of a stage; with several cores they ran beside one another.
"""

import sys
from pathlib import Path

import pandas as pd

root = Path(sys.argv[1]) / "benchmarks"
if not root.is_dir():
    sys.exit(f"{root} is no folder; name that of a finished study, such as results/demo")
STAGES = {
    *("train", "attack", "distances", "tables", "figures"),
    *("vaegan", "latent_codes", "quality", "manifold_sheet"),
}
rows = []
for path in root.rglob("*.tsv"):
    parts = path.relative_to(root).with_suffix("").parts
    known = [part for part in parts if part in STAGES]
    stage = known[0] if known else parts[-1]
    measured = pd.read_csv(path, sep="\t", na_values="-").iloc[0]
    rows.append((stage, measured["s"], measured["cpu_time"], measured["max_rss"]))
jobs = pd.DataFrame(rows, columns=["stage", "seconds", "cpu seconds", "MB at most"])
stages = jobs.groupby("stage").agg(
    jobs=("seconds", "size"),
    seconds=("seconds", "sum"),
    cpu_seconds=("cpu seconds", "sum"),
    longest=("seconds", "max"),
    mb_at_most=("MB at most", "max"),
)
print(stages.round(1).sort_values("seconds", ascending=False).to_string())
print(f"in all {jobs['seconds'].sum():.0f} s of jobs")
