"""Measure how good a learned manifold is."""

from robustgen import device
from robustgen.attacks.spaces import Threat
from robustgen.data.split import load
from robustgen.evaluation.manifold_quality import quality
from robustgen.io.files import write_table
from robustgen.io.schemas import QUALITY
from robustgen.jobs.runtime import job
from robustgen.models.cohort import Cohort
from robustgen.models.vaegan import VaeGan
from robustgen.seeding import generator

with job(snakemake.log[0], snakemake):
    settings, space = snakemake.params.settings, snakemake.wildcards.space
    here = device.setup()
    test = load(snakemake.input.bank, snakemake.input.examples, "test", here)
    columns = quality(
        [VaeGan.load(path, here) for path in snakemake.input.models],
        test,
        Cohort.load(snakemake.input.judge, here).member(0),
        Threat(**settings["threat"]),
        generator(settings["study_seed"], "quality", settings["dataset"], space),
    )

    rows = len(columns["label"])
    named = {"dataset": [settings["dataset"]] * rows, "space": [space] * rows}
    write_table(snakemake.output.quality, {**columns, **named}, QUALITY)
