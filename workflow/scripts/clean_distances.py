"""Measure the distances of clean test images to the manifold, as a reference."""

import numpy as np

from robustgen import device
from robustgen.acceleration import backends
from robustgen.data.split import load_split
from robustgen.evaluation.distances import measure_distances
from robustgen.io.parquet import write_table
from robustgen.io.schemas import CLEAN, DISTANCES
from robustgen.jobs.runtime import run_job
from robustgen.models.vaegan import load_manifold

with run_job(snakemake.log[0], snakemake):
    settings = dict(snakemake.params.settings)
    compute_device = device.setup()
    backend = backends.for_vaegans(compute_device)
    training = load_split(snakemake.input.images, snakemake.input.examples, "train", compute_device)
    test = load_split(snakemake.input.images, snakemake.input.examples, "test", compute_device)
    if snakemake.input.manifold:
        test = load_manifold(snakemake.input.manifold, test, "test", backend)
    test = test.select(slice(settings.pop("examples")))
    distances = measure_distances(
        test.images(), test, training, **settings, make_adam=backend.make_adam
    )

    columns = {
        "seed": np.ma.masked_all(len(test), np.int32),
        "example": np.arange(len(test)),
        "attack": [CLEAN] * len(test),
        "success": np.zeros(len(test), bool),
        **distances,
    }
    write_table(snakemake.output.distances, columns, DISTANCES)
