"""Measure how far the adversarial examples of an attack lie from the manifold."""

import torch

from robustgen import device
from robustgen.datasets import load
from robustgen.distance import measure
from robustgen.files import read_table, write_table
from robustgen.job import job
from robustgen.manifolds.vaegan import learned
from robustgen.tables import ATTACKS, DISTANCES
from robustgen.tensors import load_tensors

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
    measured = measure(
        found["images"].flatten(0, 1)[rows["row"].tolist()],
        test.take(torch.tensor(rows["example"].tolist(), device=here)),
        training,
        **settings,
    )

    columns = {name: rows[name].to_numpy() for name in ("seed", "example", "success")}
    columns["attack"] = [snakemake.wildcards.attack] * len(rows)
    write_table(snakemake.output.distances, {**columns, **measured}, DISTANCES)
