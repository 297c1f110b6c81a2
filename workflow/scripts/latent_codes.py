"""Encode every image by the VAE-GAN of its class, or of all classes."""

from robustgen import device
from robustgen.datasets import load
from robustgen.files import provenance
from robustgen.job import job
from robustgen.manifolds.vaegan import VaeGan, encode
from robustgen.tensors import save_tensors

with job(snakemake.log[0], snakemake):
    here = device.setup()
    models = [VaeGan.load(path, here) for path in snakemake.input.models]
    codes = {}
    for split in ("train", "test"):
        data = load(snakemake.input.bank, snakemake.input.examples, split, here)
        codes[split] = encode(models, data)
    about = {"space": snakemake.params.space, "provenance": provenance(str(here))}
    save_tensors(snakemake.output.codes, codes, about)
