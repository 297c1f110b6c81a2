"""Draw figure 1: adversarial examples and their differences, for one model."""

from robustgen.datasets import load
from robustgen.figures.examples import Attacked, examples
from robustgen.figures.selection import fooled_by_all
from robustgen.figures.style import save
from robustgen.files import read_table
from robustgen.job import job
from robustgen.tables import ATTACKS
from robustgen.tensors import load_tensors

with job(snakemake.log[0], snakemake):
    test = load(snakemake.input.bank, snakemake.input.examples, "test")
    tables, found = {}, {}
    for attack, rows, images in zip(
        snakemake.params.attacks, snakemake.input.rows, snakemake.input.found, strict=True
    ):
        table = read_table(rows, ATTACKS).to_pandas()
        tables[attack] = table[table["seed"] == table["seed"].iloc[0]].set_index(
            "example", drop=False
        )
        found[attack] = load_tensors(images)[0]["images"][0]

    chosen = fooled_by_all(
        table.iloc[: min(map(len, tables.values()))] for table in tables.values()
    )
    attacked = {}
    for attack, table in tables.items():
        of = table.loc[chosen]
        answers = [test.classes[row.answer] if row.success else None for row in of.itertuples()]
        attacked[attack] = Attacked(found[attack][chosen].numpy(), answers)
    shown = test.take(chosen)
    names = [test.classes[label] for label in shown.labels]
    save(
        examples(shown.images().numpy(), names, attacked),
        snakemake.output.png,
        snakemake.output.pdf,
    )
