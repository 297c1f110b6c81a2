"""Attack a cohort."""

from robustgen import device
from robustgen.attacks.search import Search
from robustgen.attacks.spaces import Threat
from robustgen.data.split import load
from robustgen.evaluation.attacks import attack
from robustgen.io.checkpoints import Checkpoint, identity
from robustgen.io.files import provenance, write_table
from robustgen.io.schemas import ATTACKS
from robustgen.io.tensors import save_tensors
from robustgen.jobs.runtime import job
from robustgen.models.cohort import Cohort
from robustgen.models.vaegan import learned
from robustgen.seeding import generator

with job(snakemake.log[0], snakemake):
    of = {"method": snakemake.wildcards.method, "n": int(snakemake.wildcards.n)}
    settings = {**snakemake.params.settings, **of}
    here = device.setup()
    test = load(snakemake.input.bank, snakemake.input.examples, "test", here)
    if snakemake.input.manifold:
        test = learned(snakemake.input.manifold, test, "test")
    cohort = Cohort.load(snakemake.input.cohort, here)

    drawn_for = (settings["dataset"], settings["method"], settings["n"])
    drawn = [
        generator(settings["study_seed"], "attack", settings["attack"], *drawn_for, seed)
        for seed in cohort.seeds
    ]
    test = test.take(slice(settings["examples"]))
    threat, search = Threat(**settings["threat"]), Search(**settings["search"])
    inputs = [*cohort.state_dict().values(), *test.tensors()]
    of = identity(settings, snakemake.params.code, inputs, here)
    going = Checkpoint.beside(snakemake.output.found, of)
    made = attack(cohort, test, threat, search, drawn, going)

    about = {"settings": settings, "seeds": cohort.seeds, "provenance": provenance(str(here))}
    save_tensors(snakemake.output.found, {"images": made.images, "codes": made.codes}, about)
    write_table(snakemake.output.rows, made.rows, ATTACKS)
    going.remove()
