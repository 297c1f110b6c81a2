"""Put the test errors of all models into one table."""

from robustgen.files import read_table, write_table
from robustgen.job import job
from robustgen.summaries import errors
from robustgen.tables import ERRORS, PREDICTIONS

with job(snakemake.log[0], snakemake):
    tables = (read_table(path, PREDICTIONS) for path in snakemake.input.parts)
    parts = zip(snakemake.params.about, tables, strict=True)
    write_table(snakemake.output.errors, errors(parts), ERRORS)
