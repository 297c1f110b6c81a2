"""Collect the images of a public data set or of the user's files."""

from robustgen.data.sources import collect
from robustgen.io.parquet import write_table
from robustgen.io.tensors import save_tensors
from robustgen.jobs.runtime import provenance, run_job

with run_job(snakemake.log[0], snakemake):
    settings = snakemake.params.settings
    # The place of the files is not in the params, so that a change of it runs no job again.
    images, examples = collect(
        **settings,
        path=snakemake.config["datasets"][snakemake.wildcards.dataset].get("path"),
        downloads=snakemake.config["downloads"],
    )
    header = {"settings": settings, "provenance": provenance("cpu")}
    save_tensors(snakemake.output.images, {"images": images}, header)
    write_table(snakemake.output.examples, examples, examples.schema)
