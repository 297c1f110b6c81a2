"""Run the benchmarks of `make bench`; write a table as Parquet and Markdown, and a figure.

    python benchmarks/bench.py TARGET [attacks] [searches] [learning] [neighbours] [gpu]

All benchmarks run unless some are named; `gpu` exists on a GPU only. The numbers are medians over
rounds in which all variants take turns, each on one thread. Compare their ratios: absolute times
depend on the other load of the machine.
"""

import sys
from pathlib import Path

import attacks
import gpu
import learning
import neighbours
import pandas as pd
import seaborn as sns
import searches
from matplotlib import pyplot as plt
from setting import DEVICE, describe_machine

BENCHMARKS = {
    "attacks": attacks.rows,
    "searches": searches.rows,
    "learning": learning.rows,
    "neighbours": neighbours.rows,
} | ({"gpu": gpu.rows} if DEVICE.type == "cuda" else {})
HEADERS = {
    "benchmark": "benchmark",
    "variant": "variant",
    "success": "success",
    "seconds": "seconds",
    "times_as_fast": "times as fast",
    "image_iterations_per_second": "images × iterations / s",
    "gflop_per_second": "GFLOP/s",
    "share_of_product_rate": "share of the product rate",
    "peak_mb": "peak MB",
}
"""Headers of the Markdown table, by column."""


def plot_speeds(table: pd.DataFrame) -> plt.Figure:
    """Plot how many times as fast each variant is as its reference."""
    is_own = table["variant"].str.contains("robustgen|cohort|images|thread")
    data = table.assign(
        name=table["benchmark"] + ": " + table["variant"],
        project=is_own.map({True: "robustgen", False: "others"}),
    )
    sns.set_theme(context="paper", style="whitegrid")
    figure, axes = plt.subplots(figsize=(8, 0.22 * len(data) + 1), layout="constrained")
    sns.scatterplot(
        data,
        x="times_as_fast",
        y="name",
        hue="project",
        style="project",
        palette="colorblind",
        ax=axes,
    )
    xlabel = "times as fast as the fastest other project, or as the first variant"
    axes.set(xscale="log", xlabel=xlabel, ylabel="")
    ticks = [0.5, 1, 2, 4, 8, 16, 32]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.margins(y=0.01)
    axes.axvline(1, color="0.3", linewidth=1)
    axes.legend(title=None)
    axes.set_title(describe_machine(), fontsize="small")
    return figure


def to_markdown(table: pd.DataFrame) -> str:
    """Format the table in Markdown; docs/speed.md shows most of its columns."""
    columns = table[list(HEADERS)].rename(columns=HEADERS)
    lines = [
        "| " + " | ".join(columns.columns) + " |",
        "|---|---|" + "---:|" * (columns.shape[1] - 2),
    ]
    for row in columns.itertuples(index=False):
        cells = [cell if isinstance(cell, str) else _format_number(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _format_number(number: float) -> str:
    """Format a number with two significant digits, or whole from 100."""
    return "" if pd.isna(number) else f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def main(target: Path, names: list[str]) -> None:
    """Measure, print, and write `benchmarks.parquet`, `benchmarks.pdf` and `benchmarks.png`."""
    rows = [row for name in names or BENCHMARKS for row in BENCHMARKS[name]()]
    table = pd.DataFrame(rows).reindex(columns=list(HEADERS)).assign(machine=describe_machine())
    target.mkdir(parents=True, exist_ok=True)
    table.to_parquet(target / "benchmarks.parquet")
    for suffix in ("pdf", "png"):
        plot_speeds(table).savefig(target / f"benchmarks.{suffix}", dpi=150)
    print(to_markdown(table))
    print(describe_machine())


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
