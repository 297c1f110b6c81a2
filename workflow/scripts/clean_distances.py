"""Measure how far clean test images lie from the manifold: the yardstick for the others."""

import numpy as np

from robustgen import device
from robustgen.data.split import load
from robustgen.evaluation.distances import measure
from robustgen.io.files import write_table
from robustgen.io.schemas import CLEAN, DISTANCES
from robustgen.jobs.runtime import job
from robustgen.models.vaegan import learned

with job(snakemake.log[0], snakemake):
    settings = dict(snakemake.params.settings)
    here = device.setup()
    training = load(snakemake.input.bank, snakemake.input.examples, "train", here)
    test = load(snakemake.input.bank, snakemake.input.examples, "test", here)
    if snakemake.input.manifold:
        test = learned(snakemake.input.manifold, test, "test")
    test = test.take(slice(settings.pop("examples")))

    columns = {
        "seed": np.ma.masked_all(len(test), np.int32),
        "example": np.arange(len(test)),
        "attack": [CLEAN] * len(test),
        "success": np.zeros(len(test), bool),
        **measure(test.images(), test, training, **settings),
    }
    write_table(snakemake.output.distances, columns, DISTANCES)
