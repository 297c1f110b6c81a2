"""Draw figure 3: test errors and on-manifold success rates."""

from robustgen.figures.generalization import generalization
from robustgen.figures.style import save
from robustgen.io.files import read_table
from robustgen.io.schemas import ERRORS, SUCCESS_RATES
from robustgen.jobs.runtime import job

with job(snakemake.log[0], snakemake):
    errors = read_table(snakemake.input.errors, ERRORS).to_pandas()
    rates = read_table(snakemake.input.success_rates, SUCCESS_RATES).to_pandas()
    figure = generalization(errors, rates, snakemake.params.on_manifold_attacks)
    save(figure, snakemake.output.png, snakemake.output.pdf)
