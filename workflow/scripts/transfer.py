"""Try the adversarial examples of each model on the models of other seeds and methods."""

import torch

from robustgen import device
from robustgen.acceleration import backends
from robustgen.data.split import load_split
from robustgen.evaluation.transfer import TransferTarget, count_transfers
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import ATTACKS, PREDICTIONS, TRANSFERS, empty
from robustgen.io.tensors import load_tensors
from robustgen.jobs.runtime import run_job
from robustgen.models.cohort import Cohort

with run_job(snakemake.log[0], snakemake):
    inputs, params = snakemake.input, snakemake.params
    compute_device = device.setup()
    backend = backends.for_cohorts(compute_device)
    labels = load_split(inputs.images, inputs.examples, "test", compute_device).labels
    targets = []
    for method, cohort_path, table_path in zip(
        params.methods, inputs.cohorts, inputs.predictions, strict=True
    ):
        cohort = Cohort.load(cohort_path, compute_device, backend)
        predictions = read_table(table_path, PREDICTIONS)["prediction"].to_pylist()
        predictions = torch.tensor(predictions, device=compute_device)
        is_correct = predictions.view(len(cohort.seeds), -1) == labels
        targets.append(TransferTarget(method, cohort, is_correct))

    columns = empty(TRANSFERS)
    for keys, table_path, examples_path in zip(
        params.source_keys, inputs.attack_tables, inputs.adversarial_examples, strict=True
    ):
        images = load_tensors(examples_path, compute_device)[0]["images"]
        table = read_table(table_path, ATTACKS)
        success = torch.tensor(table["success"].to_pylist(), device=compute_device)
        success = success.view(images.shape[:2])
        seeds = table["seed"].to_pylist()[:: images.shape[1]]
        for row in count_transfers(images, success, labels[: images.shape[1]], seeds, targets):
            for name, values in columns.items():
                values.append({**keys, **row}[name])
    write_table(snakemake.output.transfers, columns, TRANSFERS)
