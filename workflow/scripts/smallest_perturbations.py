"""Combine the attacks for the smallest perturbation: sizes per model, and success by radius."""

from robustgen.analysis.radius_curves import collect_sizes, tabulate_curves, tabulate_smallest
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import ATTACKS, RADIUS_CURVES, SMALLEST_PERTURBATIONS
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    tables = (read_table(path, ATTACKS) for path in snakemake.input.parts)
    parts = zip(snakemake.params.part_keys, tables, strict=True)
    models = collect_sizes(parts, snakemake.params.norms)
    write_table(snakemake.output.smallest, tabulate_smallest(models), SMALLEST_PERTURBATIONS)
    write_table(snakemake.output.curves, tabulate_curves(models), RADIUS_CURVES)
