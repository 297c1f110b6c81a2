"""Write the quality of all learned manifolds as a table and as text."""

import pyarrow as pa

from robustgen.analysis.aggregate import quality_text
from robustgen.io.files import read_table, whole, write_table
from robustgen.io.schemas import QUALITY
from robustgen.jobs.runtime import job

with job(snakemake.log[0], snakemake):
    tables = [read_table(path, QUALITY) for path in snakemake.input.parts]
    quality = pa.concat_tables([QUALITY.empty_table(), *tables])
    write_table(snakemake.output.quality, quality, QUALITY)
    with whole(snakemake.output.text) as partial:
        partial.write_text(quality_text(quality) + "\n", encoding="utf-8")
