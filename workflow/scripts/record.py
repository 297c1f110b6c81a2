"""Write the config of the study, with all defaults, beside its results."""

import json

from robustgen.io.files import whole
from robustgen.jobs.runtime import job

with job(snakemake.log[0], snakemake), whole(snakemake.output.study) as partial:
    partial.write_text(json.dumps(snakemake.params.study, indent=2) + "\n", encoding="utf-8")
