"""Collect the images of a data set whose manifold is not known."""

from robustgen.data.sources import collect
from robustgen.io.parquet import write_table
from robustgen.io.provenance import provenance
from robustgen.io.tensors import save_tensors
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    settings = snakemake.params.settings
    # Where files are is no part of a job's params: a change of it runs nothing again.
    images, examples = collect(
        **settings,
        path=snakemake.config["datasets"][snakemake.wildcards.dataset].get("path"),
        downloads=snakemake.config["downloads"],
    )
    about = {"settings": settings, "provenance": provenance("cpu")}
    save_tensors(snakemake.output.bank, {"images": images}, about)
    write_table(snakemake.output.examples, examples, examples.schema)
