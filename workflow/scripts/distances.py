"""Measure the distances of the adversarial examples of an attack to the manifold."""

import numpy as np
import torch

from robustgen import device
from robustgen.acceleration import backends
from robustgen.data.split import load_split
from robustgen.evaluation.distances import measure_distances
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import ATTACKS, DISTANCES
from robustgen.io.tensors import load_tensors
from robustgen.jobs.runtime import run_job
from robustgen.models.vaegan import load_manifold
from robustgen.progress import log

with run_job(snakemake.log[0], snakemake):
    settings = dict(snakemake.params.settings)
    examples = settings.pop("examples")
    compute_device = device.setup()
    backend = backends.for_vaegans(compute_device)
    training = load_split(snakemake.input.images, snakemake.input.examples, "train", compute_device)
    test = load_split(snakemake.input.images, snakemake.input.examples, "test", compute_device)
    if snakemake.input.manifold:
        test = load_manifold(snakemake.input.manifold, test, "test", backend)
    tensors, _ = load_tensors(snakemake.input.adversarial_examples, compute_device)
    attacks = read_table(snakemake.input.attack_table, ATTACKS).to_pandas()

    # Only correctly classified images were attacked. The other rows hold the clean test images.
    attacks = attacks.assign(row=range(len(attacks)))
    is_correct = attacks["prediction"] == attacks["label"]
    attacks = attacks[(attacks["example"] < examples) & is_correct]
    if attacks.empty:
        log.warning(
            "no model classifies any of the first %d test images correctly: no distances", examples
        )
    image_rows, example_rows = (
        torch.tensor(attacks[name].to_numpy(np.int64), device=compute_device)
        for name in ("row", "example")
    )
    images, clean = tensors["images"].flatten(0, 1)[image_rows], test.select(example_rows)
    distances = measure_distances(images, clean, training, **settings, make_adam=backend.make_adam)

    columns = {name: attacks[name].to_numpy() for name in ("seed", "example", "success")}
    columns["attack"] = [snakemake.wildcards.attack] * len(attacks)
    write_table(snakemake.output.distances, {**columns, **distances}, DISTANCES)
