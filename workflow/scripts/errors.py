"""Combine the test errors of all models into one table."""

from robustgen.analysis.aggregate import aggregate_errors
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import ERRORS, PREDICTIONS
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    tables = (read_table(path, PREDICTIONS) for path in snakemake.input.parts)
    parts = zip(snakemake.params.part_keys, tables, strict=True)
    write_table(snakemake.output.errors, aggregate_errors(parts), ERRORS)
