"""Train a VAE-GAN on the images of a class, or of all classes."""

from pathlib import Path

from robustgen import device
from robustgen.acceleration import backends
from robustgen.data.split import load_split
from robustgen.io.checkpoints import Checkpoint, identity_hash, job_identity
from robustgen.io.parquet import write_table
from robustgen.io.schemas import VAEGAN_CURVES
from robustgen.jobs.runtime import provenance, run_job
from robustgen.models.vaegan import VaeGan
from robustgen.sampling import make_generator
from robustgen.specs import VaeGanConfig
from robustgen.training.vaegan import train_vaegan_once

with run_job(snakemake.log[0], snakemake):
    settings, part = snakemake.params.settings, snakemake.params.part
    compute_device = device.setup()
    backend = backends.for_vaegans(compute_device)
    data = load_split(snakemake.input.images, snakemake.input.examples, "train", compute_device)
    name = "all"
    if part != "all":
        label = int(part.removeprefix("class"))
        name = f"class {data.classes[label]}"
        data = data.select_class(label)
    data = data.select(slice(settings["images"])).materialize()

    # The class is identified by its name: its number may change when a class is added.
    purpose = (settings["study_seed"], "vaegan", settings["dataset"], name)
    config = VaeGanConfig.from_mapping(settings["recipe"])
    model = VaeGan(tuple(data.source_images.shape[1:]), config)
    model.initialize(make_generator(*purpose, "initialization"))
    images = data.source_images if data.decoded is None else data.decoded
    identity = job_identity(
        {**settings, "name": name}, snakemake.params.code, [images], compute_device, backend.name
    )
    path = Path(snakemake.output.model)
    checkpoint = Checkpoint.beside(path, identity)
    finished_path = path.parent / "trained" / f"{identity_hash(identity)}.safetensors"
    finished = Checkpoint(finished_path, identity, interval_s=0)
    noise = make_generator(*purpose, "training")
    curves = train_vaegan_once(model.to(compute_device), data, noise, checkpoint, finished, backend)

    write_table(snakemake.output.curves, curves, VAEGAN_CURVES)
    header = {**settings, "part": part, "name": name}
    model.save(path, header, provenance(compute_device, backend.name))
    checkpoint.remove()
