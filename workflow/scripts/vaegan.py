"""Train a VAE-GAN on the images of a class, or of all."""

from pathlib import Path

from robustgen import device
from robustgen.data.split import load
from robustgen.io.checkpoints import Checkpoint, identity, named
from robustgen.io.files import provenance, write_table
from robustgen.io.schemas import VAEGAN_CURVES
from robustgen.jobs.runtime import job
from robustgen.models.vaegan import Recipe, VaeGan
from robustgen.seeding import generator
from robustgen.training.vaegan import train_once

with job(snakemake.log[0], snakemake):
    settings, part = snakemake.params.settings, snakemake.params.part
    here = device.setup()
    data = load(snakemake.input.bank, snakemake.input.examples, "train", here)
    name = "all"
    if part != "all":
        label = int(part.removeprefix("class"))
        name = f"class {data.classes[label]}"
        data = data.of_class(label)
    data = data.take(slice(settings["images"])).keep()

    # The class goes by its name: its number may change when another one is added.
    drawn_for = (settings["study_seed"], "vaegan", settings["dataset"], name)
    model = VaeGan(tuple(data.bank.shape[1:]), Recipe.of(settings["recipe"]))
    model.initialize(generator(*drawn_for, "initialization"))
    of = identity(
        {**settings, "name": name},
        snakemake.params.code,
        [data.bank if data.decoded is None else data.decoded],
        here,
    )
    path = Path(snakemake.output.model)
    going = Checkpoint.beside(path, of)
    finished = Checkpoint(path.parent / "trained" / f"{named(of)}.safetensors", of, every=0)
    rng = generator(*drawn_for, "training")
    curves = train_once(model.to(here), data, rng, going, finished)

    write_table(snakemake.output.curves, curves, VAEGAN_CURVES)
    about = {**settings, "part": part, "name": name}
    model.save(path, about, provenance(str(here)))
    going.remove()
