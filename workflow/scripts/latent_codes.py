"""Encode every image with the VAE-GAN of its class, or of all classes."""

from robustgen import device
from robustgen.acceleration import backends
from robustgen.data.split import load_split
from robustgen.io.tensors import save_tensors
from robustgen.jobs.runtime import provenance, run_job
from robustgen.models.vaegan import VaeGan, encode

with run_job(snakemake.log[0], snakemake):
    compute_device = device.setup()
    backend = backends.for_vaegans(compute_device)
    models = [VaeGan.load(path, compute_device, backend) for path in snakemake.input.models]
    codes = {}
    for split in ("train", "test"):
        data = load_split(snakemake.input.images, snakemake.input.examples, split, compute_device)
        codes[split] = encode(models, data)
    header = {
        "space": snakemake.params.space,
        "provenance": provenance(compute_device, backend.name),
    }
    save_tensors(snakemake.output.codes, codes, header)
