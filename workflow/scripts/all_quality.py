"""Put the measures of all learned manifolds into one table."""

import pyarrow as pa

from robustgen.files import read_table, write_table
from robustgen.job import job
from robustgen.tables import QUALITY

with job(snakemake.log[0]):
    tables = [read_table(path, QUALITY) for path in snakemake.input.parts]
    write_table(
        snakemake.output.quality, pa.concat_tables([QUALITY.empty_table(), *tables]), QUALITY
    )
