"""Write the config of the study, with all defaults, beside its results."""

import json

from robustgen.io.atomic import atomic_write
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake), atomic_write(snakemake.output.study) as partial:
    partial.write_text(json.dumps(snakemake.params.study, indent=2) + "\n", encoding="utf-8")
