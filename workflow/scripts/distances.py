"""Measure how far the adversarial examples of an attack lie from the manifold."""

import numpy as np
import torch

from robustgen import device
from robustgen.data.split import load
from robustgen.evaluation.distances import measure
from robustgen.io.files import read_table, write_table
from robustgen.io.schemas import ATTACKS, DISTANCES
from robustgen.io.tensors import load_tensors
from robustgen.jobs.runtime import job, log
from robustgen.models.vaegan import learned

with job(snakemake.log[0], snakemake):
    settings = dict(snakemake.params.settings)
    examples = settings.pop("examples")
    here = device.setup()
    training = load(snakemake.input.bank, snakemake.input.examples, "train", here)
    test = load(snakemake.input.bank, snakemake.input.examples, "test", here)
    if snakemake.input.manifold:
        test = learned(snakemake.input.manifold, test, "test")
    found, _ = load_tensors(snakemake.input.found, here)
    rows = read_table(snakemake.input.rows, ATTACKS).to_pandas()

    # Only images that the model got right were attacked; the others are still test images.
    rows = rows.assign(row=range(len(rows)))
    rows = rows[(rows["example"] < examples) & (rows["prediction"] == rows["label"])]
    if rows.empty:
        log.warning("no model classifies any of the first %d test images correctly", examples)
    image_rows = torch.tensor(rows["row"].to_numpy(np.int64), device=here)
    example_rows = torch.tensor(rows["example"].to_numpy(np.int64), device=here)
    adversarial_images = found["images"].flatten(0, 1)[image_rows]
    measured = measure(adversarial_images, test.take(example_rows), training, **settings)

    columns = {name: rows[name].to_numpy() for name in ("seed", "example", "success")}
    columns["attack"] = [snakemake.wildcards.attack] * len(rows)
    write_table(snakemake.output.distances, {**columns, **measured}, DISTANCES)
