"""Draw figure 2: distances to the manifold."""

from robustgen.figures.distances import distances
from robustgen.figures.style import save
from robustgen.files import read_table
from robustgen.job import job
from robustgen.tables import ALL_DISTANCES

with job(snakemake.log[0], snakemake):
    table = read_table(snakemake.input.distances, ALL_DISTANCES).to_pandas()
    drawn = distances(table, method=snakemake.params.method)
    save(drawn, snakemake.output.png, snakemake.output.pdf)
