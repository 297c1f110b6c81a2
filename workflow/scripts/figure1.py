"""Draw figure 1: adversarial examples and their differences, for one model."""

from robustgen.data.split import load_split
from robustgen.figures.examples import AttackedImages, plot_examples
from robustgen.figures.fonts import drawable_names
from robustgen.figures.selection import predicted_names, select_examples
from robustgen.figures.style import save
from robustgen.io.parquet import read_table
from robustgen.io.schemas import ATTACKS
from robustgen.io.tensors import load_tensors
from robustgen.jobs.runtime import run_job

with run_job(snakemake.log[0], snakemake):
    test = load_split(snakemake.input.images, snakemake.input.examples, "test")
    tables, adversarial_images = {}, {}
    for attack, table_path, examples_path in zip(
        snakemake.params.attacks,
        snakemake.input.attack_tables,
        snakemake.input.adversarial_examples,
        strict=True,
    ):
        table = read_table(table_path, ATTACKS).to_pandas()
        tables[attack] = table[table["seed"] == table["seed"].iloc[0]].set_index(
            "example", drop=False
        )
        adversarial_images[attack] = load_tensors(examples_path)[0]["images"][0]

    rows = select_examples(
        table.iloc[: min(map(len, tables.values()))] for table in tables.values()
    )
    class_names = drawable_names(test.classes)
    columns = {}
    for attack, table in tables.items():
        predictions = predicted_names(table.loc[rows], class_names)
        columns[attack] = AttackedImages(adversarial_images[attack][rows].numpy(), predictions)
    originals = test.select(rows)
    names = [class_names[label] for label in originals.labels]
    save(
        plot_examples(originals.images().numpy(), names, columns),
        snakemake.output.png,
        snakemake.output.pdf,
    )
