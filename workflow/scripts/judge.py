"""Train the judge of learned manifolds, a classifier of the images of a data set."""

from robustgen import device
from robustgen.acceleration import backends
from robustgen.data.split import load_split
from robustgen.io.checkpoints import Checkpoint, job_identity
from robustgen.io.parquet import write_table
from robustgen.io.schemas import CURVES
from robustgen.jobs.runtime import provenance, run_job
from robustgen.models.cohort import Cohort
from robustgen.sampling import make_generator
from robustgen.specs import TrainConfig
from robustgen.training.classifiers import Generators, train

with run_job(snakemake.log[0], snakemake):
    settings, code = snakemake.params.settings, snakemake.params.code
    compute_device = device.setup()
    backend = backends.for_cohorts(compute_device)
    data = load_split(snakemake.input.images, snakemake.input.examples, "train", compute_device)
    data = data.select(slice(settings["n"]))

    purpose = (settings["study_seed"], "judge", settings["dataset"], settings["n"])
    classifier, shape = settings["classifier"], tuple(data.source_images.shape[1:])
    judge = Cohort(classifier["architecture"], shape, len(data.classes), [0], backend)
    judge.initialize([make_generator(*purpose, "initialization")])
    judge.to(compute_device)
    generators = Generators(batches=[make_generator(*purpose, "batches")], attacks=[])
    identity = job_identity(settings, code, data.identity_tensors(), compute_device, backend.name)
    checkpoint = Checkpoint.beside(snakemake.output.cohort, identity)
    config = TrainConfig.from_params(classifier)
    curves = train(judge, data, config, None, generators, checkpoint)

    write_table(snakemake.output.curves, curves, CURVES)
    judge.save(snakemake.output.cohort, settings, provenance(compute_device, backend.name))
    checkpoint.remove()
