"""Draw all letter prototypes on one sheet."""

from robustgen.figures.prototypes import plot_prototypes
from robustgen.figures.style import save
from robustgen.io.tensors import load_tensors
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    letters = snakemake.params.letters
    images = load_tensors(snakemake.input.images)[0]["images"].numpy()
    sheet = images.reshape(-1, len(letters), *images.shape[-2:])
    save(plot_prototypes(sheet, letters), snakemake.output.png, snakemake.output.pdf)
