"""Draw the code of every image of FONTS."""

from robustgen.data.font_codes import draw_codes
from robustgen.io.parquet import write_table
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    codes = draw_codes(**snakemake.params.settings)
    write_table(snakemake.output.examples, codes, codes.schema)
