"""Check whether success rates may be too low, and write the warnings."""

from robustgen.analysis.robustness_checks import check_robustness, format_checks
from robustgen.io.atomic import atomic_write
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import ATTACKS, ROBUSTNESS_CHECKS
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    tables = (read_table(path, ATTACKS) for path in snakemake.input.parts)
    parts = zip(snakemake.params.part_keys, tables, strict=True)
    checks = check_robustness(parts, snakemake.params.attacks)
    write_table(snakemake.output.checks, checks, ROBUSTNESS_CHECKS)
    lines = format_checks(checks) or ["No check exceeds its bound."]
    with atomic_write(snakemake.output.text) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
