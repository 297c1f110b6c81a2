"""Draw figure 4: regular success rate, test error, and what adversarial training costs."""

from robustgen.figures.robustness import plot_robustness
from robustgen.figures.style import save
from robustgen.io.parquet import read_table
from robustgen.io.schemas import ERRORS, SUCCESS_RATES
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    errors = read_table(snakemake.input.errors, ERRORS).to_pandas()
    rates = read_table(snakemake.input.success_rates, SUCCESS_RATES).to_pandas()
    drawn = plot_robustness(errors, rates, **snakemake.params.drawn)
    save(drawn, snakemake.output.png, snakemake.output.pdf)
