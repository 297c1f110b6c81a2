"""Test the four claims."""

from robustgen.claims import claims, describe
from robustgen.files import read_table, whole, write_table
from robustgen.job import job
from robustgen.tables import ALL_DISTANCES, CLAIMS, ERRORS, SUCCESS_RATES

with job(snakemake.log[0]):
    errors = read_table(snakemake.input.errors, ERRORS)
    rates = read_table(snakemake.input.success_rates, SUCCESS_RATES)
    distances = read_table(snakemake.input.distances, ALL_DISTANCES)
    tested = claims(errors, rates, distances, snakemake.params.roles)
    write_table(snakemake.output.claims, tested, CLAIMS)
    with whole(snakemake.output.verdicts) as partial:
        partial.write_text(describe(tested, snakemake.params.roles) + "\n", encoding="utf-8")
