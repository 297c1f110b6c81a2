"""Draw the code of every image of FONTS."""

from robustgen.data.font_codes import draw
from robustgen.io.files import write_table
from robustgen.jobs.runtime import job

with job(snakemake.log[0], snakemake):
    codes = draw(**snakemake.params.settings)
    write_table(snakemake.output.examples, codes, codes.schema)
