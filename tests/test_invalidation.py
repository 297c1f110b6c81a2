"""What runs again after a change: exactly the jobs that depend on it, by dry runs."""

import os
import random
import shutil
from pathlib import Path

import pytest
from conftest import HERE, SMOKE, changed, copied_project, snakemake, wanted
from edits import add_comment, change_code, change_docstring, reformat

THREATS, ATTACKS, METHODS = SMOKE["threats"], SMOKE["attacks"], SMOKE["methods"]
FONTS, MANIFOLD = SMOKE["datasets"]["fonts"], SMOKE["manifolds"]["fonts"]
ON_DATA = {"space": "data_manifold", "norm": "linf", "radius": 0.1}


def with_(block: dict, name: str, **keys) -> dict:
    """A block of the config in which one entry is added, or has other settings."""
    return {**block, name: {**block.get(name, {}), **keys}}


RATES = "success_rates, over_seeds, claims, figure3, figure4"
ALL_TABLES = f"errors, all_distances, {RATES}"
SHEETS = "prototype_sheet, manifold_sheet"
DATA = f"vaegan 3, latent_codes, judge, quality, all_quality, train 6, attack 24, {SHEETS}"
DATA += f", distances 3, clean_distances, {ALL_TABLES}, figure1, figure2"

SETTINGS = {
    "the radius of the threat `transformation`": (
        {"threats": with_(THREATS, "transformation", radius=0.2)},
        f"train, attack 9, errors, {RATES}",  # one method under four attacks; one on the others
    ),
    "the steps of the attack `regular`": (
        {"attacks": with_(ATTACKS, "regular", steps=9)},
        f"attack 6, distances, all_distances, {RATES}, figure1, figure2",
    ),
    "the steps of the method `adversarial`": (
        {"methods": with_(METHODS, "adversarial", steps=9)},
        f"train, attack 4, errors, {RATES}",
    ),
    "an added method": (
        {"methods": with_(METHODS, "weak", threat="regular", steps=2)},
        f"train, attack 4, errors, {RATES}",
    ),
    "an added attack": (
        {"attacks": with_(ATTACKS, "weak", threat="regular", steps=2, examples=30)},
        f"attack 6, {RATES}",
    ),
    "an added N": (
        {"sizes": [60, 90]},
        f"train 6, attack 24, distances 3, {ALL_TABLES}, figure1, figure2",
    ),
    "added seeds": (
        {"seeds": 4},
        f"train 6, attack 24, distances 3, {ALL_TABLES}, figure2",
    ),
    "a font more": (
        {"datasets": {"fonts": {**FONTS, "fonts": 13}}},
        f"prototypes, codes, {DATA}",
    ),
    "a class more": (  # the job of each VAE-GAN runs, and finds what was trained before
        {"datasets": {"fonts": {**FONTS, "letters": "ABCD"}}},
        f"prototypes, codes, {DATA}".replace("vaegan 3", "vaegan 4"),
    ),
    "an added data set, without learned manifold": (
        {"datasets": {"fonts": FONTS, "more": {**FONTS, "letters": "DE"}}},
        "prototypes, codes, prototype_sheet, train 5, attack 15, distances 2, clean_distances, "
        f"{ALL_TABLES}, figure1, figure2",
    ),
    "how distances are measured": (
        {"distances": {**SMOKE["distances"], "neighbours": 6}},
        "distances 3, clean_distances, all_distances, claims, figure2",
    ),
    "beta of the VAE-GAN of one class": (
        {"manifolds": {"fonts": {**MANIFOLD, "betas": {2: 9.0}}}},
        "vaegan, latent_codes, quality, all_quality, manifold_sheet, train, attack 9, "
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
        f"vaegan, latent_codes, quality, all_quality, manifold_sheet, attack 6, {RATES}, figure1",
    ),
    "the images of the judge of manifolds": (
        {"manifolds": {"fonts": {**MANIFOLD, "judge": {"images": 60}}}},
        "judge, quality, all_quality, claims",
    ),
}
"""Other keys of the smoke study, and the jobs that run again beside `record`, which keeps it."""

TRAINED = f"train 6, attack 24, distances 3, {ALL_TABLES}, figure1, figure2"
LEARNED = SETTINGS["beta of the VAE-GAN of one class"][1].replace("vaegan", "vaegan 3")
EDITS = {
    "the search": (
        ("attacks/search.py", "run_search_from_starts"),
        TRAINED.replace("train 6", "train 5"),  # all methods but normal training
    ),
    "what a search records": (
        ("attacks/search.py", "ActiveExamples.update_best"),
        TRAINED.replace("train 6", "train 5"),
    ),
    "a step rule": (
        ("attacks/step_rules.py", "SignStep.__call__"),
        TRAINED.replace("train 6", "train 5"),
    ),
    "the training loop": (
        ("training/classifiers.py", "_update"),
        f"judge, quality, all_quality, {TRAINED}",
    ),
    "the classifiers' network": (
        ("models/convnet.py", "build"),
        f"judge, quality, all_quality, {TRAINED}",
    ),
    "the VAE-GANs' networks": (("models/vaegan_networks.py", "Decoder.__init__"), LEARNED),
    "the VAE-GANs' training": (("training/vaegan.py", "_update"), LEARNED),
    "the distance to neighbours": (
        ("evaluation/distances.py", "measure_to_neighbours"),
        "distances 3, clean_distances, all_distances, claims, figure2",
    ),
    "the drawing of letters": (("data/font_prototypes.py", "SIZE, POINTS"), f"prototypes, {DATA}"),
    "a statistic of the claims": (("analysis/claims.py", "STATISTICS"), "claims"),
    "intervals over seeds": (
        ("analysis/statistics.py", "t_interval"),
        "over_seeds, claims, figure3, figure4",
    ),
    "figure 3": (("figures/generalization.py", "_attack_title"), "figure3"),
    "a colour of methods": (
        ("figures/style.py", "_FIXED_STYLES"),
        "figure1, figure2, figure3, figure4",
    ),
    "a column of the claims' table": (("io/schemas.py", "CLAIMS"), "claims"),
}
"""A file of the library and a name in it, whose definition is changed; the jobs that run again."""
HARMLESS = {
    "the checks of a config": lambda library: change_code(
        library / "config/checks.py", "_check_names"
    ),
    "a comment": lambda library: add_comment(library / "attacks/search.py", "run_search"),
    "a docstring": lambda library: change_docstring(library / "attacks/search.py", "ascend"),
    "formatting": lambda library: reformat(library / "attacks/spaces.py"),
}
"""Edits that run nothing, even all of them."""


def jobs(text: str) -> dict[str, int]:
    """Counts by rule, from names which a count may follow."""
    parts = [part.split() for part in filter(None, text.split(", "))]
    return {rule: int(count[0]) if count else 1 for rule, *count in parts}


def jobs_of(run) -> dict[str, int]:
    """What a dry run lists, without the rule that only collects."""
    return {rule: count for rule, count in wanted(run).items() if rule != "all"}


@pytest.mark.parametrize(("keys", "expected"), SETTINGS.values(), ids=SETTINGS)
def test_a_changed_setting(study, tmp_path, keys, expected):
    run = snakemake(study, "-n", "--nolock", config=changed(tmp_path, **keys))
    assert jobs_of(run) == {"record": 1, **jobs(expected)}


@pytest.mark.parametrize(("edit", "expected"), EDITS.values(), ids=EDITS)
def test_edited_code(study, tmp_path, edit, expected):
    project = copied_project(tmp_path / "project")
    file, name = edit
    change_code(project / "src/robustgen" / file, name)
    assert jobs_of(snakemake(study, "-n", "--nolock", project=project)) == jobs(expected)


def test_harmless_edits(study, tmp_path):
    project = copied_project(tmp_path / "project")
    for edit in HARMLESS.values():
        edit(project / "src/robustgen")
    assert jobs_of(snakemake(study, "-n", "--nolock", project=project)) == {}


def test_another_machine(study, tmp_path):
    """Cores, memory, another profile, the device: none is part of a job's identity."""
    (tmp_path / "config.yaml").write_text(
        "cores: 7\nset-resources:\n  train:\n    mem_mb: 9\nset-threads:\n  train: 4\n"
    )
    run = snakemake(study, "-n", "--nolock", "--profile", tmp_path, ROBUSTGEN_DEVICE="cuda")
    assert jobs_of(run) == {}


@pytest.fixture(scope="module")
def moved(study, tmp_path_factory) -> Path:
    """Another folder with the results, and what Snakemake knows of them; all times are new."""
    folder = tmp_path_factory.mktemp("moved")
    rng = random.Random(0)

    def copy_late(source: str, target: str) -> None:
        shutil.copyfile(source, target)
        os.utime(target, (1, 2e9 + rng.randrange(10**6)))

    shutil.copytree(study / "results", folder / "results", copy_function=copy_late)
    known = ".snakemake/metadata"
    shutil.copytree(study / known, folder / known, copy_function=copy_late)
    return folder


def test_a_fresh_clone_with_moved_results(moved, tmp_path):
    """Time stamps do not count, neither of the results nor of the code; changes still do."""
    project = copied_project(tmp_path / "project")
    assert jobs_of(snakemake(moved, "-n", project=project)) == {}
    keys, expected = SETTINGS["the steps of the attack `regular`"]
    run = snakemake(moved, "-n", config=changed(tmp_path, **keys), project=project)
    assert jobs_of(run) == {"record": 1, **jobs(expected)}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("fonts/classifiers/normal/n60/seeds0-1.safetensors", ""),
        ("fonts/attacks/regular/normal/n60/seeds0-1.parquet", ""),
        ("tables/claims.parquet", "claims"),
        ("figures/figure4.pdf", "figure4"),
    ],
)
def test_a_deleted_file(study, tmp_path, file, expected):
    """One that others are made of is not missed while they are there, but can be asked for."""
    shutil.copytree(study, tmp_path / "study", copy_function=os.link)
    gone = tmp_path / "study/results/smoke" / file
    gone.unlink()
    assert jobs_of(snakemake(tmp_path / "study", "-n")) == jobs(expected)
    asked = jobs_of(snakemake(tmp_path / "study", "-n", f"results/smoke/{file}"))
    assert sum(asked.values()) == 1


FIGURES = {"figure1", "figure2", "figure3", "figure4", "prototype_sheet", "manifold_sheet"}
TABLES = {"errors", "success_rates", "over_seeds", "all_distances", "all_quality", "claims"}


def told(expected: str) -> str:
    """The same in few words."""
    counts = jobs(expected)
    words = [f"{rule} {n}" for rule, n in counts.items() if rule not in FIGURES | TABLES]
    for names, word in ((TABLES, "table"), (FIGURES, "figure")):
        many = sum(n for rule, n in counts.items() if rule in names)
        words += [f"{many} {word}{'s' if many > 1 else ''}"] if many else []
    return ", ".join(words) or "nothing"


def test_the_documentation_has_the_table():
    text = (HERE / "docs/reruns.md").read_text(encoding="utf-8")
    rows = [(name, told(expected)) for name, (_, expected) in SETTINGS.items()]
    rows += [(f"code: {name}", told(expected)) for name, (_, expected) in EDITS.items()]
    rows += [(f"code: {name}", told("")) for name in HARMLESS]
    for name, what in rows:
        assert f"| {name} | {what} |" in text, (name, what)
