"""The study, the paths of its results, and functions that several rule files use."""

import os
import tempfile
import time
from functools import cache
from itertools import product
from pathlib import Path

from robustgen.config.study import Study
from robustgen.config.yaml_files import refuse_repeated_keys
from robustgen.errors import UserError
from robustgen.jobs.fingerprint import fingerprint

RULES_FOLDER = workflow.current_basedir
"""The folder of the rules, in this clone or where Snakemake fetched the workflow from."""
CAPTIONS_FOLDER = "../report"
"""The folder of the captions, relative to the folder of the rules."""

# A job stops if its code was changed after this time.
os.environ["ROBUSTGEN_PLANNED"] = str(time.time())

with exit_on_user_error():
    for file in workflow.configfiles:
        refuse_repeated_keys(file)
    STUDY = Study.parse(config)

RESULTS = f"results/{STUDY.study}"
COHORT = "{method}/n{n}/seeds{first}-{last}"
COHORTS = [f"seeds{first}-{last}" for first, last in STUDY.cohorts()]


MIN_FREE_BYTES = 10**6
"""Bytes that must be free on each disk for logs and metadata."""
CHECKED_DISKS = set()


def require_writable(folder, remedy="name another results folder with --directory"):
    """Stop if `folder`, or its nearest parent that exists, cannot be written."""
    existing = Path(folder).absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            disk = os.fstat(file.fileno()).st_dev
            file.write(bytes(0 if disk in CHECKED_DISKS else MIN_FREE_BYTES))
            CHECKED_DISKS.add(disk)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {existing}: {error.strerror}; make it writable, free space on its disk, or {remedy}"
        )


# With --cache, studies share the files of equal data sets, VAE-GANs and judges. Without --cache, no
# rule is marked as cached, because Snakemake would warn about each of them.
IS_CACHING = workflow.workflow_settings.cache is not None

# With few cores, jobs on which most other jobs depend run first. Otherwise the longest chain of
# jobs, VAE-GANs and the training on their manifolds, would start last, and cores would be idle.
PRIORITY = {"dataset": 4, "manifolds": 3, "classifiers": 2, "attacks": 1}

STAGES = ("dataset", "manifolds", "classifiers", "attacks", "distances", "transfer", "figures")

with exit_on_user_error():
    for folder in ("logs", "benchmarks", "tables", "figures"):
        require_writable(f"{RESULTS}/{folder}")
    for dataset, stage in product(STUDY.datasets, STAGES):
        require_writable(f"{RESULTS}/{dataset}/{stage}")


wildcard_constraints:
    dataset="|".join(STUDY.datasets),
    method="|".join(STUDY.methods),
    attack="|".join(STUDY.attacks),
    n=r"\d+",
    first=r"\d+",
    last=r"\d+",


def pattern_of(names):
    """Return the constraint of a wildcard to `names`; without names it matches nothing."""
    return "|".join(names) or "(?!)"


SEARCH_MODULES = (
    "robustgen.attacks.search",
    "robustgen.attacks.spaces",
    "robustgen.acceleration.verified_search",
    "robustgen.acceleration.cuda.whole_search",
)
VAEGAN_MODULES = ("robustgen.models.vaegan", "robustgen.acceleration.cpu.vaegan_layers")


@cache
def code_fingerprint(script, excluded_modules=()):
    """Return the fingerprint of the library code of `script`, and the modules that it excludes.

    In `params` it must be a constant or a function of wildcards alone: Snakemake does not run a job
    again after changes of params that also depend on inputs or resources.
    """
    with exit_on_user_error():
        path = workflow.sourcecache.get_path(RULES_FOLDER.join(f"../scripts/{script}.py"))
        digest = fingerprint(path, excluded_modules)
    return " without ".join(filter(None, [digest, " ".join(excluded_modules)]))


with exit_on_user_error():
    MEGABYTES = {name: dataset.megabytes for name, dataset in STUDY.datasets.items()}


def memory_mb(base):
    """Return a function for mem_mb: `base`, and three copies of the data set's images.

    A job may hold all images, those that it selected, and those that it changed.
    """
    return lambda wildcards: base + 3 * MEGABYTES[wildcards.dataset]


def per_cohort(pattern, methods=STUDY.methods_of, **names_of):
    """Return the paths of all cohorts, and for each path the values of its other wildcards.

    `pattern` has the wildcards dataset, method, n, cohort and the keys of `names_of`. `methods` and
    the values of `names_of` are functions from the name of a data set to names.
    """
    keys = []
    for dataset in STUDY.datasets:
        values = {"dataset": [dataset], "method": methods(dataset), "n": STUDY.sizes}
        values |= {name: names(dataset) for name, names in names_of.items()} | {"cohort": COHORTS}
        keys += [dict(zip(values, combination)) for combination in product(*values.values())]
    paths = [f"{RESULTS}/{pattern}".format(**wildcards) for wildcards in keys]
    for wildcards in keys:
        del wildcards["cohort"]
    return paths, keys


def figure(name, folder="figures", file=None, **labels):
    """Return the output files of a figure: a PNG with its caption for the report, and a PDF."""
    caption = f"{CAPTIONS_FOLDER}/{name}.rst"
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
