"""Try the adversarial examples of each model on the models of other seeds and methods."""

import pyarrow as pa
import torch

from robustgen import device
from robustgen.acceleration import backends
from robustgen.data.split import load_split
from robustgen.evaluation.transfer import TransferTarget, count_transfers
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import ATTACKS, PREDICTIONS, TRANSFERS
from robustgen.io.tensors import load_tensors
from robustgen.jobs.runtime import run_job
from robustgen.models.cohort import Cohort

with run_job(snakemake.log[0], snakemake):
    inputs, params = snakemake.input, snakemake.params
    compute_device = device.setup()
    backend = backends.for_cohorts(compute_device)
    labels = load_split(inputs.images, inputs.examples, "test", compute_device).labels
    targets = []
    for keys, cohort_path, table_path in zip(
        params.target_keys, inputs.cohorts, inputs.predictions, strict=True
    ):
        cohort = Cohort.load(cohort_path, compute_device, backend)
        predictions = read_table(table_path, PREDICTIONS)["prediction"].to_pylist()
        predictions = torch.tensor(predictions, device=compute_device)
        is_correct = predictions.view(len(cohort.seeds), -1) == labels
        targets.append(TransferTarget(keys["method"], cohort, is_correct))

    rows = []
    for keys, table_path, examples_path in zip(
        params.source_keys, inputs.attack_tables, inputs.adversarial_examples, strict=True
    ):
        images = load_tensors(examples_path, compute_device)[0]["images"]
        attacked = read_table(table_path, ATTACKS)
        success, seeds = (
            torch.tensor(attacked[name].to_pylist(), device=compute_device).view(images.shape[:2])
            for name in ("success", "seed")
        )
        labels_of_examples = labels[: images.shape[1]]
        transfers = count_transfers(
            images, success, labels_of_examples, seeds[:, 0].tolist(), targets
        )
        rows += [{**keys, **row} for row in transfers]
    table = pa.Table.from_pylist(rows, schema=TRANSFERS)
    write_table(snakemake.output.transfers, table, TRANSFERS)
