"""Draw figure 5: success against the radius."""

from robustgen.figures.radius_curves import plot_radius_curves
from robustgen.figures.style import save
from robustgen.io.parquet import read_table
from robustgen.io.schemas import OVER_SEEDS, RADIUS_CURVES
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    curves = read_table(snakemake.input.curves, RADIUS_CURVES).to_pandas()
    over_seeds = read_table(snakemake.input.over_seeds, OVER_SEEDS).to_pandas()
    figure = plot_radius_curves(curves, over_seeds, snakemake.params.attacks)
    save(figure, snakemake.output.png, snakemake.output.pdf)
