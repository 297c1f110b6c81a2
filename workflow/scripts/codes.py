"""Draw the codes of every image of FONTS."""

from robustgen.datasets.fonts import draw
from robustgen.files import write_table
from robustgen.job import job

with job(snakemake.log[0], snakemake):
    codes = draw(**snakemake.params.settings)
    write_table(snakemake.output.examples, codes, codes.schema)
