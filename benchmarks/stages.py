"""Print time and memory of each stage of a finished study, from the benchmark files of its jobs.

    python benchmarks/stages.py results/demo

Seconds are summed over the jobs of a stage, of which several may have run at the same time.
"""

import sys
from pathlib import Path

import pandas as pd

STAGES = {
    *("train", "attack", "distances", "transfer", "tables", "figures"),
    *("vaegan", "latent_codes", "quality", "manifold_sheet"),
}


def read_jobs(folder: Path) -> pd.DataFrame:
    """Read a row for each job from Snakemake's benchmark files."""
    rows = []
    for path in folder.rglob("*.tsv"):
        parts = path.relative_to(folder).with_suffix("").parts
        stage = next((part for part in parts if part in STAGES), parts[-1])
        benchmark = pd.read_csv(path, sep="\t", na_values="-").iloc[0]
        rows.append((stage, benchmark["s"], benchmark["cpu_time"], benchmark["max_rss"]))
    return pd.DataFrame(rows, columns=["stage", "seconds", "cpu_seconds", "peak_mb"])


def summarize(jobs: pd.DataFrame) -> pd.DataFrame:
    """Summarize the jobs of each stage, slowest stage first."""
    stages = jobs.groupby("stage").agg(
        jobs=("seconds", "size"),
        seconds=("seconds", "sum"),
        cpu_seconds=("cpu_seconds", "sum"),
        longest=("seconds", "max"),
        peak_mb=("peak_mb", "max"),
    )
    return stages.round(1).sort_values("seconds", ascending=False)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = Path(sys.argv[1]) / "benchmarks"
    if not folder.is_dir():
        sys.exit(f"{folder} is no folder; name that of a finished study, such as results/demo")
    jobs = read_jobs(folder)
    print(summarize(jobs).to_string())
    print(f"in all {jobs['seconds'].sum():.0f} s of jobs")
