"""Test the four claims and write the verdicts."""

from robustgen.analysis.claims import evaluate_claims
from robustgen.analysis.verdicts import format_verdicts
from robustgen.io.atomic import atomic_write
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import (
    ALL_DISTANCES,
    CLAIMS,
    ERRORS,
    QUALITY,
    ROBUSTNESS_CHECKS,
    SUCCESS_RATES,
)
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    errors = read_table(snakemake.input.errors, ERRORS)
    rates = read_table(snakemake.input.success_rates, SUCCESS_RATES)
    distances = read_table(snakemake.input.distances, ALL_DISTANCES)
    quality = read_table(snakemake.input.quality, QUALITY)
    checks = read_table(snakemake.input.checks, ROBUSTNESS_CHECKS)
    roles, on_manifold = snakemake.params.roles, snakemake.params.on_manifold
    verdicts = evaluate_claims(errors, rates, distances, quality, roles, on_manifold)
    write_table(snakemake.output.claims, verdicts, CLAIMS)
    text = format_verdicts(verdicts, checks, roles, on_manifold)
    with atomic_write(snakemake.output.verdicts) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
