"""Measure the quality of a learned manifold."""

from robustgen import device
from robustgen.acceleration import backends
from robustgen.data.split import load_split
from robustgen.evaluation.manifold_quality import measure_quality
from robustgen.io.parquet import write_table
from robustgen.io.schemas import QUALITY
from robustgen.jobs.runtime import run_job
from robustgen.models.cohort import Cohort
from robustgen.models.vaegan import VaeGan
from robustgen.sampling import make_generator
from robustgen.specs import Threat

with run_job(snakemake.log[0], snakemake):
    settings, space = snakemake.params.settings, snakemake.wildcards.space
    compute_device = device.setup()
    backend = backends.for_vaegans(compute_device)
    test = load_split(snakemake.input.images, snakemake.input.examples, "test", compute_device)
    columns = measure_quality(
        [VaeGan.load(path, compute_device, backend) for path in snakemake.input.models],
        test,
        Cohort.load(snakemake.input.judge, compute_device).member(0),
        Threat(**settings["threat"]),
        make_generator(settings["study_seed"], "quality", settings["dataset"], space),
    )

    rows = len(columns["label"])
    keys = {"dataset": [settings["dataset"]] * rows, "space": [space] * rows}
    write_table(snakemake.output.quality, {**columns, **keys}, QUALITY)
