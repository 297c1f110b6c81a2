"""Draw figure 3: test errors and on-manifold success rates."""

from robustgen.figures.generalization import plot_generalization
from robustgen.figures.style import save
from robustgen.io.parquet import read_table
from robustgen.io.schemas import ERRORS, SUCCESS_RATES
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    errors = read_table(snakemake.input.errors, ERRORS).to_pandas()
    rates = read_table(snakemake.input.success_rates, SUCCESS_RATES).to_pandas()
    figure = plot_generalization(errors, rates, snakemake.params.on_manifold_attacks)
    save(figure, snakemake.output.png, snakemake.output.pdf)
