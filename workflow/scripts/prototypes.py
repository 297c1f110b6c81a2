"""Render the letters of the fonts on hand."""

import torch

from robustgen.files import provenance, write_table
from robustgen.fonts import prototypes
from robustgen.job import job
from robustgen.tables import FONTS
from robustgen.tensors import save_tensors

with job(snakemake.log[0], snakemake):
    settings = snakemake.params.settings
    made = prototypes(**settings)
    images = torch.as_tensor(made.images).flatten(0, 1)[:, None]
    about = {"settings": settings, "provenance": provenance("cpu")}
    save_tensors(snakemake.output.bank, {"images": images}, about)
    write_table(snakemake.output.fonts, made.table, FONTS)
