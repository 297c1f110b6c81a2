"""Train a cohort and predict the classes of the test split."""

from robustgen import device
from robustgen.acceleration import backends
from robustgen.data.split import load_split
from robustgen.evaluation.attacks import predict
from robustgen.io.checkpoints import Checkpoint, job_identity
from robustgen.io.parquet import write_table
from robustgen.io.schemas import CURVES, PREDICTIONS
from robustgen.jobs.runtime import provenance, run_job
from robustgen.models.cohort import Cohort
from robustgen.models.vaegan import load_manifold
from robustgen.sampling import make_generator
from robustgen.specs import AdversarialTraining, TrainConfig
from robustgen.training.classifiers import Generators, train

with run_job(snakemake.log[0], snakemake):
    settings, wildcards, output = snakemake.params.settings, snakemake.wildcards, snakemake.output
    n, seeds = int(wildcards.n), range(int(wildcards.first), int(wildcards.last) + 1)
    compute_device = device.setup()
    backend = backends.for_cohorts(compute_device)
    data = load_split(snakemake.input.images, snakemake.input.examples, "train", compute_device)
    data = data.select(slice(n))
    if snakemake.input.manifold:
        data = load_manifold(snakemake.input.manifold, data, "train", backend)

    # All methods have the same initial weights and batch order, because they are compared.
    study_seed, dataset, name = (settings[key] for key in ("study_seed", "dataset", "method"))
    initialization = [make_generator(study_seed, "initialization", dataset, seed) for seed in seeds]
    batches = [make_generator(study_seed, "batches", dataset, n, seed) for seed in seeds]
    attacks = [
        make_generator(study_seed, "training attacks", dataset, name, n, seed) for seed in seeds
    ]

    classifier, shape = settings["classifier"], tuple(data.source_images.shape[1:])
    cohort = Cohort(classifier["architecture"], shape, len(data.classes), seeds, backend)
    cohort.initialize(initialization)
    cohort.to(compute_device)
    identity = job_identity(
        {**settings, "n": n, "seeds": list(seeds)},
        snakemake.params.code,
        data.identity_tensors(),
        compute_device,
        backend.name,
    )
    checkpoint = Checkpoint.beside(output.cohort, identity)
    config, method = TrainConfig.from_params(classifier), AdversarialTraining.from_params(settings)
    curves = train(cohort, data, config, method, Generators(batches, attacks), checkpoint)

    test = load_split(snakemake.input.images, snakemake.input.examples, "test", compute_device)
    write_table(output.predictions, predict(cohort, test), PREDICTIONS)
    write_table(output.curves, curves, CURVES)
    cohort.save(output.cohort, {**settings, "n": n}, provenance(compute_device, backend.name))
    checkpoint.remove()
