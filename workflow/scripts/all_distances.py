"""Put all distances into one table."""

from robustgen.analysis.aggregate import concatenate_distances
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import ALL_DISTANCES, DISTANCES
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    paths = [*snakemake.input.clean, *snakemake.input.parts]
    about = [{"dataset": name} for name in snakemake.params.datasets] + snakemake.params.about
    tables = (read_table(path, DISTANCES) for path in paths)
    parts = zip(about, tables, strict=True)
    write_table(snakemake.output.distances, concatenate_distances(parts), ALL_DISTANCES)
