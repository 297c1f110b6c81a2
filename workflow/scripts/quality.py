"""Measure how good a learned manifold is."""

from robustgen import device
from robustgen.cohort import Cohort
from robustgen.datasets import load
from robustgen.files import write_table
from robustgen.job import job
from robustgen.manifolds.vaegan import VaeGan
from robustgen.quality import quality
from robustgen.seeding import generator
from robustgen.spaces import Threat
from robustgen.tables import QUALITY

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
