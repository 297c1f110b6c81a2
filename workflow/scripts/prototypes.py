"""Render the letters of the available fonts."""

import torch

from robustgen.data.font_prototypes import draw_prototypes
from robustgen.io.parquet import write_table
from robustgen.io.paths import INSTALLED
from robustgen.io.schemas import FONTS
from robustgen.io.tensors import save_tensors
from robustgen.jobs.runtime import provenance, run_job

with run_job(snakemake.log[0], snakemake):
    settings = snakemake.params.settings
    # The place of the fonts is not in the params, so that a change of it runs no job again.
    folder = snakemake.config["datasets"][snakemake.wildcards.dataset].get("font_source", INSTALLED)
    letters = draw_prototypes(**settings, font_source=folder)
    images = torch.as_tensor(letters.images).flatten(0, 1)[:, None]
    header = {"settings": settings, "provenance": provenance("cpu")}
    save_tensors(snakemake.output.images, {"images": images}, header)
    write_table(snakemake.output.fonts, letters.table, FONTS)
