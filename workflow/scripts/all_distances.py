"""Combine all distances into one table."""

from robustgen.analysis.aggregate import concatenate_distances
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import ALL_DISTANCES, DISTANCES
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    paths = [*snakemake.input.clean, *snakemake.input.parts]
    keys = [{"dataset": name} for name in snakemake.params.datasets] + snakemake.params.part_keys
    tables = (read_table(path, DISTANCES) for path in paths)
    parts = zip(keys, tables, strict=True)
    write_table(snakemake.output.distances, concatenate_distances(parts), ALL_DISTANCES)
