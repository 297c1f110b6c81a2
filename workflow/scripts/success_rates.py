"""Combine the success rates of all attacks on all models into one table."""

from robustgen.analysis.aggregate import aggregate_success_rates
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import ATTACKS, SUCCESS_RATES
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    tables = (read_table(path, ATTACKS) for path in snakemake.input.parts)
    parts = zip(snakemake.params.part_keys, tables, strict=True)
    write_table(snakemake.output.success_rates, aggregate_success_rates(parts), SUCCESS_RATES)
