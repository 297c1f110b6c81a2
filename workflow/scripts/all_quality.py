"""Write the quality of all learned manifolds as a table and as text."""

import pyarrow as pa

from robustgen.analysis.aggregate import format_quality
from robustgen.io.atomic import atomic_write
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import QUALITY
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    tables = [read_table(path, QUALITY) for path in snakemake.input.parts]
    quality = pa.concat_tables([QUALITY.empty_table(), *tables])
    write_table(snakemake.output.quality, quality, QUALITY)
    with atomic_write(snakemake.output.text) as partial:
        partial.write_text(format_quality(quality) + "\n", encoding="utf-8")
