"""Encode every image by the VAE-GAN of its class, or of all classes."""

from robustgen import device
from robustgen.data.split import load
from robustgen.io.files import provenance
from robustgen.io.tensors import save_tensors
from robustgen.jobs.runtime import job
from robustgen.models.vaegan import VaeGan, encode

with job(snakemake.log[0], snakemake):
    here = device.setup()
    models = [VaeGan.load(path, here) for path in snakemake.input.models]
    codes = {}
    for split in ("train", "test"):
        data = load(snakemake.input.bank, snakemake.input.examples, split, here)
        codes[split] = encode(models, data)
    about = {"space": snakemake.params.space, "provenance": provenance(str(here))}
    save_tensors(snakemake.output.codes, codes, about)
