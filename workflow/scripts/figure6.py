"""Draw figure 6: transfer of adversarial examples between training methods."""

from robustgen.figures.style import save
from robustgen.figures.transfer import plot_transfer
from robustgen.io.parquet import read_table
from robustgen.io.schemas import ALL_TRANSFERS
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    transfers = read_table(snakemake.input.transfers, ALL_TRANSFERS).to_pandas()
    figure = plot_transfer(transfers, snakemake.params.attacks)
    save(figure, snakemake.output.png, snakemake.output.pdf)
