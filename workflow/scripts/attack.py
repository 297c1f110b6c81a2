"""Attack a cohort and save the adversarial examples."""

from robustgen import device
from robustgen.acceleration import backends
from robustgen.data.split import load_split
from robustgen.evaluation.attacks import attack_cohort
from robustgen.io.checkpoints import Checkpoint, job_identity
from robustgen.io.parquet import write_table
from robustgen.io.schemas import ATTACKS
from robustgen.io.tensors import save_tensors
from robustgen.jobs.runtime import provenance, run_job
from robustgen.models.cohort import Cohort
from robustgen.models.vaegan import load_manifold
from robustgen.sampling import make_generator
from robustgen.specs import Threat, parse_search

with run_job(snakemake.log[0], snakemake):
    wildcards, code = snakemake.wildcards, snakemake.params.code
    settings = {**snakemake.params.settings, "method": wildcards.method, "n": int(wildcards.n)}
    compute_device = device.setup()
    backend = backends.for_cohorts(compute_device)
    test = load_split(snakemake.input.images, snakemake.input.examples, "test", compute_device)
    if snakemake.input.manifold:
        test = load_manifold(snakemake.input.manifold, test, "test", backend)
    test = test.select(slice(settings["examples"]))
    cohort = Cohort.load(snakemake.input.cohort, compute_device, backend)

    purpose = ("attack", *(settings[key] for key in ("attack", "dataset", "method", "n")))
    generators = [make_generator(settings["study_seed"], *purpose, seed) for seed in cohort.seeds]
    inputs = [*cohort.state_dict().values(), *test.identity_tensors()]
    identity = job_identity(settings, code, inputs, compute_device, backend.name)
    checkpoint = Checkpoint.beside(snakemake.output.adversarial_examples, identity)
    threat, search = Threat(**settings["threat"]), parse_search(settings["search"])
    result = attack_cohort(cohort, test, threat, search, generators, checkpoint)

    header = {
        "settings": settings,
        "seeds": cohort.seeds,
        "provenance": provenance(compute_device, backend.name),
    }
    tensors = {"images": result.images, "codes": result.codes}
    save_tensors(snakemake.output.adversarial_examples, tensors, header)
    write_table(snakemake.output.attack_table, result.rows, ATTACKS)
    checkpoint.remove()
