"""Draw figure 1: adversarial examples and their differences, for one model."""

from robustgen.data.split import load
from robustgen.figures.examples import AttackedImages, plot_examples
from robustgen.figures.fonts import drawable_names
from robustgen.figures.selection import predicted_names, select_examples
from robustgen.figures.style import save
from robustgen.io.parquet import read_table
from robustgen.io.schemas import ATTACKS
from robustgen.io.tensors import load_tensors
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
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

    chosen = select_examples(
        table.iloc[: min(map(len, tables.values()))] for table in tables.values()
    )
    class_names = drawable_names(test.classes)
    attacked = {}
    for attack, table in tables.items():
        predictions = predicted_names(table.loc[chosen], class_names)
        attacked[attack] = AttackedImages(found[attack][chosen].numpy(), predictions)
    shown = test.take(chosen)
    names = [class_names[label] for label in shown.labels]
    save(
        plot_examples(shown.images().numpy(), names, attacked),
        snakemake.output.png,
        snakemake.output.pdf,
    )
