"""The study, and how its parts are named on disk."""

import os
import tempfile
import time
from functools import cache
from itertools import product
from pathlib import Path

from robustgen.config.yaml_files import refuse_repeated_keys
from robustgen.errors import UserError
from robustgen.jobs.fingerprint import fingerprint
from robustgen.config.study import Study

RULES = workflow.current_basedir
"""The folder of the rules, in this clone or wherever a module of Snakemake has them from."""
REPORT = "../report"
"""The folder of the captions, relative to that of the rules, as Snakemake takes them."""


# Jobs compare their code with what it is now.
os.environ["ROBUSTGEN_PLANNED"] = str(time.time())

with one_sentence():
    for file in workflow.configfiles:
        refuse_repeated_keys(file)
    STUDY = Study.parse(config)

RESULTS = f"results/{STUDY.study}"
COHORT = "{method}/n{n}/seeds{first}-{last}"
COHORTS = [f"seeds{first}-{last}" for first, last in STUDY.cohorts()]


ROOM = 10**6
"""Bytes that must be free on each disk, for what is said and noted beside results."""
DISKS = set()


def require_writable(folder, otherwise="name another results folder with --directory"):
    """Stop if `folder`, or what of its path exists, cannot be written."""
    held = Path(folder).absolute()
    while not os.path.lexists(held):
        held = held.parent
    try:
        with tempfile.TemporaryFile(dir=held) as file:
            disk = os.fstat(file.fileno()).st_dev
            file.write(bytes(0 if disk in DISKS else ROOM))
            DISKS.add(disk)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {held}: {error.strerror}; free it or {otherwise}"
        )


# With --cache, studies that agree on a data set or a VAE-GAN share its files. Without, nothing is
# marked, or Snakemake would warn of each rule.
CACHING = workflow.workflow_settings.cache is not None

# Where cores are few, what most has to wait for goes first: else the longest way to the end, over
# VAE-GANs and training on what they learned, begins last, and other cores have nothing to do.
PRIORITY = {"dataset": 4, "manifolds": 3, "classifiers": 2, "attacks": 1}

STAGES = ("dataset", "manifolds", "classifiers", "attacks", "distances", "figures")

with one_sentence():
    for part in ("logs", "benchmarks", "tables", "figures"):
        require_writable(f"{RESULTS}/{part}")
    for dataset, stage in product(STUDY.datasets, STAGES):
        require_writable(f"{RESULTS}/{dataset}/{stage}")


wildcard_constraints:
    dataset="|".join(STUDY.datasets),
    method="|".join(STUDY.methods),
    attack="|".join(STUDY.attacks),
    n=r"\d+",
    first=r"\d+",
    last=r"\d+",


def one_of(names):
    """A wildcard's constraint to `names`; without any it matches nothing."""
    return "|".join(names) or "(?!)"


SEARCH = (
    "robustgen.attacks.search",
    "robustgen.attacks.spaces",
    "robustgen.acceleration.verified_search",
    "robustgen.acceleration.cuda.whole_search",
)
VAEGANS = ("robustgen.models.vaegan", "robustgen.acceleration.cpu.vaegan_layers")


@cache
def code_of(script, without=()):
    """The fingerprint of what `script` runs, but for modules that a job does not use.

    Parameters that are functions of more than wildcards do not make Snakemake run a job again.
    """
    with one_sentence():
        path = workflow.sourcecache.get_path(RULES.join(f"../scripts/{script}.py"))
        found = fingerprint(path, without)
    return " without ".join(filter(None, [found, " ".join(without)]))


with one_sentence():
    MEGABYTES = {name: dataset.megabytes for name, dataset in STUDY.datasets.items()}


def memory(base):
    """mem_mb of a rule: `base`, and thrice the data set's images: held, chosen from, worked on."""
    return lambda w: base + 3 * MEGABYTES[w.dataset]


def per_cohort(pattern, methods=STUDY.methods_of, **of):
    """Every file of `pattern` over data sets, and over methods, N, cohorts and `of` of each.

    As a pair: the paths, and in the same order what each is about but its cohort.

    methods, of: from the name of a data set to the names, of methods and whatever else is there.
    """
    about = []
    for dataset in STUDY.datasets:
        over = {"dataset": [dataset], "method": methods(dataset), "n": STUDY.sizes}
        over |= {name: names(dataset) for name, names in of.items()} | {"cohort": COHORTS}
        about += [dict(zip(over, values)) for values in product(*over.values())]
    paths = [f"{RESULTS}/{pattern}".format(**names) for names in about]
    for names in about:
        del names["cohort"]
    return paths, about


def figure(name, folder="figures", file=None, **labels):
    """Output files of a figure: a PNG with its caption for the report, and a PDF."""
    caption = f"{REPORT}/{name}.rst"
    path = f"{RESULTS}/{folder}/{file or name}"
    return {
        "png": report(
            f"{path}.png",
            caption=caption,
            category="Figures",
            labels={"figure": name, **labels},
        ),
        "pdf": f"{path}.pdf",
    }
