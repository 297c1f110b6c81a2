"""The jobs that run again after a change, by dry runs: exactly those that depend on it."""

import os
import random
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, SMOKE, copy_project, count_planned_jobs, snakemake, write_config
from edits import add_comment, change_code, change_docstring, reformat

pytestmark = pytest.mark.slow

THREATS, ATTACKS, METHODS = SMOKE["threats"], SMOKE["attacks"], SMOKE["methods"]
FONTS, MANIFOLD = SMOKE["datasets"]["fonts"], SMOKE["manifolds"]["fonts"]
ON_DATA = {"space": "data_manifold", "norm": "linf", "radius": 0.1}


def with_(block: dict, name: str, **keys) -> dict:
    """A copy of a block of the config with a new entry, or with other settings of an entry."""
    return {**block, name: {**block.get(name, {}), **keys}}


TRANSFER = "transfer, all_transfers, figure6"
RATES = "success_rates, robustness_checks, over_seeds, claims, figure3, figure4, figure5"
ALL_RATES = f"{RATES}, smallest_perturbations, {TRANSFER}"
ALL_TABLES = f"errors, all_distances, {ALL_RATES}"
SHEETS = "prototype_sheet, manifold_sheet"
DATA = f"vaegan 3, latent_codes, judge, quality, all_quality, train 6, attack 48, {SHEETS}"
DATA += f", distances 3, clean_distances, {ALL_TABLES}, figure1, figure2"

SETTINGS = {
    "the radius of the threat `transformation`": (
        {"threats": with_(THREATS, "transformation", radius=0.2)},
        f"train, attack 13, errors, {ALL_RATES}",  # one method under eight attacks, five under one
    ),
    "the steps of the attack `regular`": (
        {"attacks": with_(ATTACKS, "regular", steps=9)},
        f"attack 6, distances, all_distances, {RATES}, {TRANSFER}, figure1, figure2",
    ),
    "the steps of the method `adversarial`": (
        {"methods": with_(METHODS, "adversarial", steps=9)},
        f"train, attack 8, errors, {ALL_RATES}",
    ),
    "the learning rate of the classifiers": (
        {"classifier": {**SMOKE["classifier"], "learning_rate": 0.02}},
        f"judge, quality, all_quality, train 6, attack 48, distances 3, {ALL_TABLES}, figure1, "
        "figure2",
    ),
    "an added method": (
        {"methods": with_(METHODS, "weak", threat="regular", steps=2)},
        f"train, attack 8, errors, {ALL_RATES}",
    ),
    "an added attack": (
        {"attacks": with_(ATTACKS, "weak", threat="regular", steps=2, examples=30)},
        f"attack 6, {RATES}, {TRANSFER}",
    ),
    "an added N": (
        {"sizes": [60, 90]},
        f"train 6, attack 48, distances 3, {ALL_TABLES}, figure1, figure2",
    ),
    "added seeds": (
        {"seeds": 4},
        f"train 6, attack 48, distances 3, {ALL_TABLES}, figure2",
    ),
    "a font more": (
        {"datasets": {"fonts": {**FONTS, "fonts": 13}}},
        f"prototypes, codes, {DATA}",
    ),
    "a class more": (  # the job of each VAE-GAN runs, but trained models are reused
        {"datasets": {"fonts": {**FONTS, "letters": "ABCD"}}},
        f"prototypes, codes, {DATA}".replace("vaegan 3", "vaegan 4"),
    ),
    "an added data set, without learned manifold": (
        {"datasets": {"fonts": FONTS, "more": {**FONTS, "letters": "DEF"}}},
        "prototypes, codes, prototype_sheet, train 5, attack 35, distances 2, clean_distances, "
        f"{ALL_TABLES}, figure1, figure2",
    ),
    "how distances are measured": (
        {"distances": {**SMOKE["distances"], "neighbours": 6}},
        "distances 3, clean_distances, all_distances, claims, figure2",
    ),
    "beta of the VAE-GAN of one class": (
        {"manifolds": {"fonts": {**MANIFOLD, "betas": {2: 9.0}}}},
        "vaegan, latent_codes, quality, all_quality, manifold_sheet, train, attack 13, "
        f"distances 3, clean_distances, {ALL_TABLES}, figure1, figure2",
    ),
    "beta of a VAE-GAN that is not used": (
        {"manifolds": {"fonts": {**MANIFOLD, "betas": {"all": 9.0}}}},
        "",
    ),
    "an added attack on the manifold of all classes": (
        {
            "threats": {**THREATS, "on_data_manifold": ON_DATA},
            "attacks": with_(ATTACKS, "on_data_manifold", threat="on_data_manifold", examples=9),
        },
        "vaegan, latent_codes, quality, all_quality, manifold_sheet, attack 6, figure1, "
        f"{RATES}, {TRANSFER}",
    ),
    "the images of the judge of manifolds": (
        {"manifolds": {"fonts": {**MANIFOLD, "judge": {"images": 60}}}},
        "judge, quality, all_quality, claims",
    ),
}
"""Changed keys of the smoke study, and the jobs that run again, without `record`."""

TRAINED = f"train 6, attack 48, distances 3, {ALL_TABLES}, figure1, figure2"
LEARNED = SETTINGS["beta of the VAE-GAN of one class"][1].replace("vaegan", "vaegan 3")
EDITS = {
    "the search": (
        ("attacks/search.py", "run_search_from_starts"),
        TRAINED.replace("train 6", "train 5"),  # all methods but normal training
    ),
    "what a search records": (
        ("attacks/active_examples.py", "ActiveExamples.update_best"),
        TRAINED.replace("train 6", "train 5"),
    ),
    "a step rule": (
        ("attacks/step_rules.py", "SignStep.__call__"),
        TRAINED.replace("train 6", "train 5"),
    ),
    "a loss of the search": (
        ("attacks/losses.py", "cross_entropy"),
        TRAINED.replace("train 6", "train 5"),
    ),
    "the training loop": (
        ("training/classifiers.py", "_update"),
        f"judge, quality, all_quality, {TRAINED}",
    ),
    "the classifiers' network": (
        ("models/architectures.py", "build_convnet"),
        f"judge, quality, all_quality, {TRAINED}",
    ),
    "the VAE-GANs' networks": (("models/vaegan.py", "Decoder.__init__"), LEARNED),
    "the VAE-GANs' training": (("training/vaegan.py", "_update"), LEARNED),
    "the distance to neighbours": (
        ("evaluation/distances.py", "measure_to_neighbours"),
        "distances 3, clean_distances, all_distances, claims, figure2",
    ),
    "the drawing of letters": (
        ("data/font_prototypes.py", "FONT_SIZE"),
        f"prototypes, {DATA}",
    ),
    "intervals of single models": (
        ("analysis/statistics.py", "wilson_interval"),
        "errors, success_rates, all_transfers, over_seeds, claims, figure3, figure4, figure5, "
        "figure6",
    ),
    "a statistic of the claims": (("analysis/claims.py", "STATISTICS"), "claims"),
    "intervals over seeds": (
        ("analysis/statistics.py", "t_interval"),
        "smallest_perturbations, over_seeds, claims, figure3, figure4, figure5",
    ),
    "figure 3": (("figures/generalization.py", "_attack_title"), "figure3"),
    "a colour of methods": (
        ("figures/style.py", "_FIXED_STYLES"),
        "figure1, figure2, figure3, figure4, figure5, figure6",
    ),
    "a column of the claims' table": (("io/schemas.py", "CLAIMS"), "claims"),
}
"""A module of the library and the definition that is changed in it, and the jobs that run again."""
HARMLESS = {
    "the checks of a config": lambda library: change_code(
        library / "config/checks.py", "_check_names"
    ),
    "a comment": lambda library: add_comment(library / "attacks/search.py", "run_search"),
    "a docstring": lambda library: change_docstring(library / "attacks/search.py", "ascend"),
    "formatting": lambda library: reformat(library / "attacks/spaces.py"),
}
"""Edits after which no job runs again."""


def parse_counts(text: str) -> dict[str, int]:
    """The numbers of jobs by rule, from names of rules that a number may follow."""
    parts = [part.split() for part in filter(None, text.split(", "))]
    return {rule: int(count[0]) if count else 1 for rule, *count in parts}


def count_jobs(run) -> dict[str, int]:
    """The numbers of jobs by rule that a dry run lists, without the target rule."""
    return {rule: count for rule, count in count_planned_jobs(run).items() if rule != "all"}


@pytest.mark.parametrize(("keys", "expected"), SETTINGS.values(), ids=SETTINGS)
def test_a_changed_setting_runs_the_jobs_that_depend_on_it(study, tmp_path, keys, expected):
    run = snakemake(study, "-n", "--nolock", config=write_config(tmp_path, **keys))
    assert count_jobs(run) == {"record": 1, **parse_counts(expected)}


@pytest.mark.parametrize(("edit", "expected"), EDITS.values(), ids=EDITS)
def test_edited_code_runs_the_jobs_that_use_it(study, tmp_path, edit, expected):
    project = copy_project(tmp_path / "project")
    file, name = edit
    change_code(project / "src/robustgen" / file, name)
    assert count_jobs(snakemake(study, "-n", "--nolock", project=project)) == parse_counts(expected)


def test_harmless_edits_run_no_job(study, tmp_path):
    project = copy_project(tmp_path / "project")
    for edit in HARMLESS.values():
        edit(project / "src/robustgen")
    assert count_jobs(snakemake(study, "-n", "--nolock", project=project)) == {}


def test_settings_of_the_machine_run_no_job(study, tmp_path):
    """Cores, memory, profile and device are no part of a job's identity."""
    (tmp_path / "config.yaml").write_text(
        "cores: 7\nset-resources:\n  train:\n    mem_mb: 9\nset-threads:\n  train: 4\n"
    )
    run = snakemake(study, "-n", "--nolock", "--profile", tmp_path, ROBUSTGEN_DEVICE="cuda")
    assert count_jobs(run) == {}


@pytest.fixture(scope="module")
def copied_study(study, tmp_path_factory) -> Path:
    """A copy of the results and of Snakemake's metadata, in which all files have new times."""
    folder = tmp_path_factory.mktemp("copied")
    rng = random.Random(0)

    def copy_with_new_time(source: str, target: str) -> None:
        shutil.copyfile(source, target)
        os.utime(target, (1, 2e9 + rng.randrange(10**6)))

    shutil.copytree(study / "results", folder / "results", copy_function=copy_with_new_time)
    metadata = ".snakemake/metadata"
    shutil.copytree(study / metadata, folder / metadata, copy_function=copy_with_new_time)
    return folder


def test_times_of_results_and_code_run_no_job(copied_study, tmp_path):
    """A changed setting does."""
    project = copy_project(tmp_path / "project")
    assert count_jobs(snakemake(copied_study, "-n", project=project)) == {}
    keys, expected = SETTINGS["the steps of the attack `regular`"]
    run = snakemake(copied_study, "-n", config=write_config(tmp_path, **keys), project=project)
    assert count_jobs(run) == {"record": 1, **parse_counts(expected)}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("fonts/classifiers/normal/n60/seeds0-1.safetensors", ""),
        ("fonts/attacks/regular/normal/n60/seeds0-1.parquet", ""),
        ("tables/claims.parquet", "claims"),
        ("figures/figure4.pdf", "figure4"),
    ],
)
def test_a_deleted_file_is_recreated_if_it_is_a_target(study, tmp_path, file, expected):
    """A deleted input is not recreated while its outputs exist, unless it is named."""
    shutil.copytree(study, tmp_path / "study", copy_function=os.link)
    (tmp_path / "study/results/smoke" / file).unlink()
    assert count_jobs(snakemake(tmp_path / "study", "-n")) == parse_counts(expected)
    target_jobs = count_jobs(snakemake(tmp_path / "study", "-n", f"results/smoke/{file}"))
    assert sum(target_jobs.values()) == 1


FIGURES = {*(f"figure{i}" for i in range(1, 7)), "prototype_sheet", "manifold_sheet"}
TABLES = {
    *("errors", "success_rates", "smallest_perturbations", "over_seeds"),
    *("all_transfers", "robustness_checks"),
    *("all_distances", "all_quality", "claims"),
}


def summarize(expected: str) -> str:
    """The jobs as the documentation lists them, with tables and figures counted."""
    counts = parse_counts(expected)
    words = [f"{rule} {n}" for rule, n in counts.items() if rule not in FIGURES | TABLES]
    for names, word in ((TABLES, "table"), (FIGURES, "figure")):
        total = sum(n for rule, n in counts.items() if rule in names)
        words += [f"{total} {word}{'s' if total > 1 else ''}"] if total else []
    return ", ".join(words) or "nothing"


def test_the_documentation_lists_the_jobs_of_each_change():
    text = (ROOT / "docs/reruns.md").read_text(encoding="utf-8")
    rows = [(name, summarize(expected)) for name, (_, expected) in SETTINGS.items()]
    rows += [(f"code: {name}", summarize(expected)) for name, (_, expected) in EDITS.items()]
    rows += [(f"code: {name}", summarize("")) for name in HARMLESS]
    for name, summary in rows:
        assert f"| {name} | {summary} |" in text, (name, summary)
