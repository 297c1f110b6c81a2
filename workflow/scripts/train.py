"""Train a cohort and let it predict the test split."""

from robustgen import device
from robustgen.attacks.search import Search
from robustgen.attacks.spaces import Threat
from robustgen.data.split import load
from robustgen.evaluation.attacks import predictions
from robustgen.io.checkpoints import Checkpoint, identity
from robustgen.io.files import provenance, write_table
from robustgen.io.schemas import CURVES, PREDICTIONS
from robustgen.jobs.runtime import job
from robustgen.models.cohort import Cohort
from robustgen.models.vaegan import learned
from robustgen.seeding import generator
from robustgen.training.classifiers import Generators, Method, Schedule, train

with job(snakemake.log[0], snakemake):
    settings, wildcards, output = snakemake.params.settings, snakemake.wildcards, snakemake.output
    n, seeds = int(wildcards.n), range(int(wildcards.first), int(wildcards.last) + 1)
    here = device.setup()
    data = load(snakemake.input.bank, snakemake.input.examples, "train", here).take(slice(n))
    if snakemake.input.manifold:
        data = learned(snakemake.input.manifold, data, "train")

    # What is drawn without naming the method is the same for all methods, which are compared.
    study_seed, dataset, method = (settings[k] for k in ("study_seed", "dataset", "method"))
    start = [generator(study_seed, "initialization", dataset, s) for s in seeds]
    batches = [generator(study_seed, "batches", dataset, n, s) for s in seeds]
    attacks = [generator(study_seed, "training attacks", dataset, method, n, s) for s in seeds]

    shape = tuple(data.bank.shape[1:])
    classifier = dict(settings["classifier"])
    cohort = Cohort(classifier.pop("architecture"), shape, len(data.classes), seeds)
    cohort.initialize(start)
    added = None
    if settings["threat"] is not None:
        added = Method(Threat(**settings["threat"]), Search(**settings["search"]))
    cohort.to(here)
    of = {**settings, "n": n, "seeds": list(seeds)}
    going = Checkpoint.beside(
        output.cohort, identity(of, snakemake.params.code, data.tensors(), here)
    )
    drawn = Generators(batches, attacks)
    curves = train(cohort, data, Schedule(**classifier), added, drawn, going)

    test = load(snakemake.input.bank, snakemake.input.examples, "test", here)
    write_table(output.predictions, predictions(cohort, test), PREDICTIONS)
    write_table(output.curves, curves, CURVES)
    cohort.save(output.cohort, {**settings, "n": n}, provenance(str(here)))
    going.remove()
