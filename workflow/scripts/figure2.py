"""Draw figure 2: distances to the manifold."""

from robustgen.figures.distances import distances
from robustgen.figures.style import save
from robustgen.io.files import read_table
from robustgen.io.schemas import ALL_DISTANCES
from robustgen.jobs.runtime import job

with job(snakemake.log[0], snakemake):
    table = read_table(snakemake.input.distances, ALL_DISTANCES).to_pandas()
    figure = distances(table, method=snakemake.params.method)
    save(figure, snakemake.output.png, snakemake.output.pdf)
