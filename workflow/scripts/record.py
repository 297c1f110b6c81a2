"""Keep the study, with all defaults filled in, beside its results."""

import json

from robustgen.files import whole
from robustgen.job import job

with job(snakemake.log[0], snakemake), whole(snakemake.output.study) as partial:
    partial.write_text(json.dumps(snakemake.params.study, indent=2) + "\n", encoding="utf-8")
