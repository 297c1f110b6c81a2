"""Average errors, success rates and half radii over seeds."""

from robustgen.analysis.aggregate import average_over_seeds
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import ERRORS, OVER_SEEDS, SMALLEST_PERTURBATIONS, SUCCESS_RATES
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    errors = read_table(snakemake.input.errors, ERRORS)
    rates = read_table(snakemake.input.success_rates, SUCCESS_RATES)
    smallest = read_table(snakemake.input.smallest, SMALLEST_PERTURBATIONS)
    over_seeds = average_over_seeds(errors, rates, smallest)
    write_table(snakemake.output.over_seeds, over_seeds, OVER_SEEDS)
