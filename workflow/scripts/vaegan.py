"""Train a VAE-GAN on the images of a class, or of all."""

from pathlib import Path

import torch

from robustgen import device
from robustgen.checkpoints import Checkpoint, identity
from robustgen.datasets import load
from robustgen.files import provenance, write_table
from robustgen.job import job
from robustgen.seeding import generator
from robustgen.tables import VAEGAN_CURVES
from robustgen.vaegan import Recipe, VaeGan, train

with job(snakemake.log[0]):
    settings = snakemake.params.settings
    part = settings["part"]
    here = device.setup()
    data = load(snakemake.input.bank, snakemake.input.examples, "train", here)
    if part != "all":
        data = data.take(torch.nonzero(data.labels == int(part.removeprefix("class")))[:, 0])
    data = data.take(slice(settings["images"])).keep()

    drawn_for = (settings["study_seed"], "vaegan", settings["dataset"], part)
    model = VaeGan(tuple(data.bank.shape[1:]), Recipe.of(settings["recipe"]))
    model.initialize(generator(*drawn_for, "initialization"))
    of = identity(settings, snakemake.params.code, snakemake.input, here)
    kept = Checkpoint(Path(snakemake.output.model).with_suffix(".checkpoint.safetensors"), of)
    curves = train(model.to(here), data, generator(*drawn_for, "training"), kept)

    write_table(snakemake.output.curves, curves, VAEGAN_CURVES)
    model.save(snakemake.output.model, settings, provenance(str(here)))
    kept.remove()
