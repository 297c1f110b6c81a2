"""Train the classifier that judges learned manifolds, on images of the data set alone."""

from robustgen import device
from robustgen.data.split import load
from robustgen.io.checkpoints import Checkpoint, identity
from robustgen.io.files import provenance, write_table
from robustgen.io.schemas import CURVES
from robustgen.jobs.runtime import job
from robustgen.models.cohort import Cohort
from robustgen.seeding import generator
from robustgen.training.classifiers import Generators, Schedule, train

with job(snakemake.log[0], snakemake):
    settings = snakemake.params.settings
    here = device.setup()
    data = load(snakemake.input.bank, snakemake.input.examples, "train", here)
    data = data.take(slice(settings["n"]))

    drawn_for = (settings["study_seed"], "judge", settings["dataset"], settings["n"])
    classifier = dict(settings["classifier"])
    shape = tuple(data.bank.shape[1:])
    judge = Cohort(classifier.pop("architecture"), shape, len(data.classes), seeds=[0])
    judge.initialize([generator(*drawn_for, "initialization")])
    drawn = Generators(batches=[generator(*drawn_for, "batches")], attacks=[])
    of = identity(settings, snakemake.params.code, data.tensors(), here)
    going = Checkpoint.beside(snakemake.output.cohort, of)
    curves = train(judge.to(here), data, Schedule(**classifier), None, drawn, going)

    write_table(snakemake.output.curves, curves, CURVES)
    judge.save(snakemake.output.cohort, settings, provenance(str(here)))
    going.remove()
