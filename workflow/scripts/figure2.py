"""Draw figure 2: distances to the manifold."""

from robustgen.figures.distances import plot_distances
from robustgen.figures.style import save
from robustgen.io.parquet import read_table
from robustgen.io.schemas import ALL_DISTANCES
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    table = read_table(snakemake.input.distances, ALL_DISTANCES).to_pandas()
    figure = plot_distances(table, method=snakemake.params.method)
    save(figure, snakemake.output.png, snakemake.output.pdf)
