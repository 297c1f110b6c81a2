"""All that is compared, in one run: a table as Parquet and in Markdown, and a figure.

    make bench

Shown are medians of rounds in which all ways take turns, each on one thread; what counts are the
ratios.
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
from setting import HERE, machine

PARTS = {
    "attacks": attacks.rows,
    "searches": searches.rows,
    "learning": learning.rows,
    "neighbours": neighbours.rows,
} | ({"gpu": gpu.rows} if HERE.type == "cuda" else {})
SHOWN = {
    "benchmark": "what",
    "way": "way",
    "success": "success",
    "seconds": "seconds",
    "times_as_fast": "times as fast",
    "image_iterations_per_second": "images × iterations / s",
    "gflop_per_second": "GFLOP/s",
    "share_of_product_rate": "share of the product rate",
    "peak_mb": "MB at most",
}


def figure(table: pd.DataFrame) -> plt.Figure:
    """How many times as fast each way is as what it is compared with."""
    shown = table.assign(
        name=table["benchmark"] + ": " + table["way"],
        whose=table["way"]
        .str.contains("robustgen|cohort|images|thread")
        .map({True: "robustgen", False: "others"}),
    )
    sns.set_theme(context="paper", style="whitegrid")
    held, axes = plt.subplots(figsize=(8, 0.22 * len(shown) + 1), layout="constrained")
    sns.scatterplot(
        shown,
        x="times_as_fast",
        y="name",
        hue="whose",
        style="whose",
        palette="colorblind",
        ax=axes,
    )
    axes.set(xscale="log", xlabel="times as fast as the fastest other, or as the first", ylabel="")
    ticks = [0.5, 1, 2, 4, 8, 16, 32]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.margins(y=0.01)
    axes.axvline(1, color="0.3", linewidth=1)
    axes.legend(title=None)
    axes.set_title(machine(), fontsize="small")
    return held


def markdown(table: pd.DataFrame) -> str:
    """The table in Markdown; docs/speed.md shows most of its columns."""
    numbers = table[list(SHOWN)].rename(columns=SHOWN)
    lines = [
        "| " + " | ".join(numbers.columns) + " |",
        "|---|---|" + "---:|" * (numbers.shape[1] - 2),
    ]
    for row in numbers.itertuples(index=False):
        cells = [cell if isinstance(cell, str) else _short(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _short(number: float) -> str:
    return "" if pd.isna(number) else f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def main(target: Path, parts: list[str]) -> None:
    """Measure, print, and write `benchmarks.parquet` and `benchmarks.pdf` and `.png`."""
    rows = [row for part in parts or PARTS for row in PARTS[part]()]
    table = pd.DataFrame(rows).reindex(columns=list(SHOWN)).assign(machine=machine())
    target.mkdir(parents=True, exist_ok=True)
    table.to_parquet(target / "benchmarks.parquet")
    for kind in ("pdf", "png"):
        figure(table).savefig(target / f"benchmarks.{kind}", dpi=150)
    print(markdown(table))
    print(machine())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
