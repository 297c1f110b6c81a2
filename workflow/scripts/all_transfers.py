"""Combine the transfers of all data sets and N into one table, with rates."""

from robustgen.analysis.aggregate import aggregate_transfers
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import ALL_TRANSFERS, TRANSFERS
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    tables = (read_table(path, TRANSFERS) for path in snakemake.input.parts)
    parts = zip(snakemake.params.part_keys, tables, strict=True)
    write_table(snakemake.output.transfers, aggregate_transfers(parts), ALL_TRANSFERS)
