"""Draw figure 4: regular success rates, and the cost of adversarial training in test error."""

from robustgen.figures.robustness import plot_robustness
from robustgen.figures.style import save
from robustgen.io.parquet import read_table
from robustgen.io.schemas import ERRORS, SUCCESS_RATES
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    errors = read_table(snakemake.input.errors, ERRORS).to_pandas()
    rates = read_table(snakemake.input.success_rates, SUCCESS_RATES).to_pandas()
    figure = plot_robustness(errors, rates, **snakemake.params.figure_arguments)
    save(figure, snakemake.output.png, snakemake.output.pdf)
