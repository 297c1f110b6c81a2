"""The workflow as its users run it: from the command line, in a folder of its own."""

import filecmp
import json
import os
import re
import resource
import shutil
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import HERE, PART, SMOKE, changed, same, snakemake, wanted
from pages import block, blocks
from PIL import Image
from safetensors import safe_open

from robustgen.data.font_files import installed_styles
from robustgen.io import schemas as tables

THREATS, ATTACKS = SMOKE["threats"], SMOKE["attacks"]
DATA = "results/smoke/fonts"


def test_no_job_is_warned_of_anything(study):
    assert "Warning" not in (study / "said").read_text()


def test_a_run_ends_with_the_verdicts_and_where_results_lie(study):
    printed = (study / "printed").read_text()
    verdicts = (study / "results/smoke/tables/verdicts.txt").read_text()
    assert f"\n{verdicts}\nTables:  results/smoke/tables\n" in printed
    assert "Report:  make it with snakemake --report results/smoke/report.html" in printed
    assert printed.endswith(f" --directory {study} --configfile {HERE}/config/smoke.yaml\n")


def test_a_second_run_does_nothing(study):
    assert wanted(snakemake(study, "-n")) == {}


SCHEMAS = {
    "tables/errors.parquet": (tables.ERRORS, 6 * 2),
    "tables/success_rates.parquet": (tables.SUCCESS_RATES, 6 * 2 * 4),
    "tables/manifolds.parquet": (tables.QUALITY, 3 + 1),
    "tables/distances.parquet": (tables.ALL_DISTANCES, None),
    "tables/claims.parquet": (tables.CLAIMS, None),
    "tables/over_seeds.parquet": (tables.OVER_SEEDS, None),
    "fonts/dataset/fonts.parquet": (tables.FONTS, 12),
    "fonts/dataset/examples.parquet": (tables.CODES, 12 * 3 * (8 + 4)),
    "fonts/classifiers/adversarial/n60/seeds0-1.curves.parquet": (tables.CURVES, 2 * 3),
    "fonts/classifiers/normal/n60/seeds0-1.predictions.parquet": (tables.PREDICTIONS, 2 * 144),
    "fonts/attacks/regular/normal/n60/seeds0-1.parquet": (tables.ATTACKS, 2 * 30),
    "fonts/distances/clean.parquet": (tables.DISTANCES, 10),
    "fonts/manifolds/class1.curves.parquet": (tables.VAEGAN_CURVES, 2),
    "fonts/manifolds/judge.curves.parquet": (tables.CURVES, 3),
    "fonts/manifolds/learned_manifold.quality.parquet": (tables.QUALITY, 3 + 1),
}


@pytest.mark.parametrize(("name", "schema", "rows"), [(k, *v) for k, v in SCHEMAS.items()])
def test_tables_have_their_schema_and_rows(study, name, schema, rows):
    path = study / "results/smoke" / name
    assert pq.read_schema(path).equals(schema)
    for field in pq.read_schema(path):
        assert field.metadata[b"description"], field.name
    if rows is not None:
        assert pq.read_metadata(path).num_rows == rows


def test_files_say_what_made_them(study):
    for name in ("classifiers", "attacks/regular"):
        path = study / DATA / name / "normal/n60/seeds0-1.safetensors"
        with safe_open(path, "numpy") as file:
            header = json.loads(file.metadata()["robustgen"])
        assert header["seeds"] == [0, 1]
        assert header["provenance"]["device"] == "cpu"
        assert {"torch", "robustgen", "commit"} <= set(header["provenance"])
        assert header["settings"]["dataset"] == "fonts"
        assert (header["settings"]["method"], header["settings"]["n"]) == ("normal", 60)
    record = json.loads((study / "results/smoke/study.json").read_text())
    assert record["sizes"] == [60]
    assert record["distances"]["steps"] == 50


def test_every_job_has_log_and_benchmark(study):
    root = study / "results/smoke"
    jobs = sum(wanted(snakemake(study, "-n", "--forceall")).values()) - 2  # all, total
    for folder, suffix in (("logs", ".log"), ("benchmarks", ".tsv")):
        assert len(list((root / folder).rglob(f"*{suffix}"))) >= jobs - 1
    log = (root / "logs/fonts/train/normal/n60/seeds0-1.log").read_text()
    assert "epoch 3/3, 0 s left" in log
    assert log.rstrip().endswith("done")


def test_no_times_in_results(study):
    names = {
        name
        for path in (study / "results/smoke").rglob("*.parquet")
        for name in pq.read_schema(path).names
    }
    assert not {name for name in names if "time" in name or "second" in name}


def test_results_do_not_depend_on_cores_or_on_what_else_is_studied(study, tmp_path):
    """A part of the study, from scratch on one core, gives the same bytes job by job."""
    cohort = "n60/seeds0-1.parquet"
    targets = [f"{DATA}/distances/clean.parquet"]
    targets.append(f"{DATA}/distances/regular/normal/{cohort}")
    targets.append(f"{DATA}/attacks/on_true_manifold/on_true_manifold/{cohort}")
    run = snakemake(tmp_path, *targets, "--cores", "1", config=changed(tmp_path, **PART))
    assert run.returncode == 0, run.stderr[-3000:]
    compared = 0
    for path in sorted((tmp_path / DATA).rglob("*")):
        if path.suffix in (".parquet", ".safetensors"):
            twin = study / path.relative_to(tmp_path)
            assert filecmp.cmp(twin, path, shallow=False), path.name
            compared += 1
    manifold = 3 * 3 + 1  # of each letter the model, twice, and its curves; the codes
    assert compared == 3 + manifold + 2 * 3 + 2 * 2 + 1 + 1
    started = re.findall(r"^(?:local)?rule (\w+):", run.stdout + run.stderr, re.M)
    order = [rule for rule, _ in groupby(started)]
    assert set(order[:2]) == {"prototypes", "codes"}
    assert order[2:6] == ["vaegan", "latent_codes", "train", "attack"], "longest ways first"


@pytest.mark.long
def test_the_whole_smoke_study_gives_the_same_bytes_again(study, tmp_path):
    run = snakemake(tmp_path, "--cores", "1")
    assert run.returncode == 0, run.stderr[-3000:]
    assert same(study, tmp_path) == same(study, study)


def test_a_learned_manifold_is_trained_and_attacked(study):
    """One VAE-GAN per class, the codes of every image, and an attack within them."""
    folder = study / DATA / "manifolds"
    models = sorted(path.name for path in folder.glob("class*.safetensors"))
    assert models == ["class0.safetensors", "class1.safetensors", "class2.safetensors"]
    with safe_open(folder / "learned_manifold.safetensors", "numpy") as file:
        codes = {split: file.get_tensor(split) for split in ("train", "test")}
    assert {name: of.shape for name, of in codes.items()} == {"train": (288, 4), "test": (144, 4)}
    rows = study / DATA / "attacks/on_learned_manifold/normal/n60/seeds0-1.parquet"
    found = pq.read_table(rows).to_pandas()
    attacked = found[found["prediction"] == found["label"]]
    assert (attacked["code_linf"] <= 0.3 + 1e-5).all()
    measured = pq.read_table(study / "results/smoke/tables/distances.parquet").to_pandas()
    assert set(measured["attack"]) == {
        "clean",
        "regular",
        "on_true_manifold",
        "on_learned_manifold",
    }
    kinds = ("true_manifold", "learned_manifold", "neighbour")
    assert measured[[f"{kind}_distance" for kind in kinds]].notna().all(axis=None)
    tested = pq.read_table(study / "results/smoke/tables/claims.parquet").to_pandas()
    poor = tested[tested["manifold"] == "learned_manifold"]
    assert poor["rule"].str.contains("the learned manifold is too poor").all()
    assert not tested[tested["manifold"] != "learned_manifold"]["rule"].str.contains("poor").any()


def name_of(trained: Path) -> str:
    """Of what a kept VAE-GAN is."""
    with safe_open(trained, "numpy") as file:
        header = json.loads(file.metadata()["robustgen"])
    return json.loads(header["identity"])["settings"]["name"]


def test_an_added_class_trains_one_manifold(study, tmp_path):
    """And one that is lost is trained anew to the same bytes, its damaged checkpoint told of."""
    folder = f"{DATA}/manifolds"
    shutil.copytree(study / folder / "trained", tmp_path / folder / "trained")
    kept = {name_of(path): path for path in (tmp_path / folder / "trained").iterdir()}
    assert set(kept) == {"class A", "class B", "class C"}
    kept["class B"].unlink()
    damaged = tmp_path / folder / "class1.checkpoint.safetensors"
    damaged.write_bytes(b"damaged")
    fonts = {**SMOKE["datasets"]["fonts"], "letters": "ABCD"}
    config = changed(tmp_path, datasets={"fonts": fonts}, sizes=[60])
    codes = f"{folder}/learned_manifold.safetensors"
    run = snakemake(tmp_path, codes, "--cores", "2", config=config)
    assert run.returncode == 0, run.stderr[-3000:]
    logs = [tmp_path / f"results/smoke/logs/fonts/vaegan/class{k}.log" for k in range(4)]
    before = ["trained before" in log.read_text() for log in logs]
    assert before == [True, False, True, False]
    assert "checkpoint ignored" in logs[1].read_text()
    assert not damaged.exists()
    for k in range(3):
        for name in (f"class{k}.safetensors", f"class{k}.curves.parquet"):
            path = f"{folder}/{name}"
            assert filecmp.cmp(study / path, tmp_path / path, shallow=False), name


ON_DATA = {"space": "data_manifold", "norm": "linf", "radius": 0.1}
PLANS = {
    "paper.yaml": {"train": (10 + 8 + 8) * 8, "attack": (10 * 5 + 8 * 4 * 2) * 8, "vaegan": 33},
    "celeba.yaml": {"train": 8 * 8, "attack": 8 * 4 * 8, "vaegan": 3},
    "fashion.yaml": {"train": 5 * 2, "attack": 5 * 4 * 2, "vaegan": 10},
}


def seconds_of_children() -> float:
    """Computed by finished processes, which other work beside them does not add to."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(("config", "jobs"), PLANS.items(), ids=PLANS)
def test_the_shipped_studies_are_planned(tmp_path, config, jobs):
    before = seconds_of_children()
    run = snakemake(tmp_path, "-n", config=HERE / "config" / config)
    found = wanted(run)
    assert {rule: found[rule] for rule in jobs} == jobs
    assert seconds_of_children() - before < 15


@pytest.mark.long
def test_planning_takes_time_by_the_number_of_jobs(tmp_path):
    """The paper's study, and one ten times as large."""
    config = ("-n", "--quiet", "rules", "--config")
    paper = HERE / "config/paper.yaml"
    seconds, jobs = [], []
    for seeds in (5, 50):
        before = seconds_of_children()
        run = snakemake(tmp_path, *config, f"seeds={seeds}", config=paper)
        seconds.append(seconds_of_children() - before)
        jobs.append(wanted(run)["attack"])
    assert jobs[1] == 10 * jobs[0]
    assert seconds[1] < 12 * seconds[0]


def test_a_config_replaces_the_demo(tmp_path):
    """Nothing of config.yaml may leak into another study."""
    run = snakemake(tmp_path, "-n", config=changed(tmp_path, methods={"normal": {}}))
    assert wanted(run)["train"] == 1


BAD = {
    "a misspelt key": ({"seedz": 3}, "seedz is not a known key (did you mean seed?)"),
    "a negative radius": (
        {"threats": {**SMOKE["threats"], "regular": {**SMOKE["threats"]["regular"], "radius": -1}}},
        "threats.regular.radius is -1",
    ),
    "N above the data": ({"sizes": [300]}, "sizes[0] is 300, but must be at most 288"),
    "N not a multiple of the classes": ({"sizes": [31]}, "sizes[0] is 31"),
    "an empty list": ({"sizes": []}, "sizes is []"),
    "an unknown threat": ({"methods": {"m": {"threat": "none"}}}, "methods.m.threat is 'none'"),
}


def test_a_weak_search_is_told_before_any_job(tmp_path):
    attacks = {**ATTACKS, "regular": {**ATTACKS["regular"], "steps": 2}}
    run = snakemake(tmp_path, "-n", config=changed(tmp_path, attacks=attacks))
    assert "robustgen: the steps of attacks.regular (2 steps of 0.05 reach 0.1 of" in run.stdout


@pytest.mark.parametrize(("keys", "sentence"), BAD.values(), ids=BAD.keys())
def test_a_bad_config_is_one_sentence_before_any_job(tmp_path, keys, sentence):
    run = snakemake(tmp_path, "--cores", "1", config=changed(tmp_path, **keys))
    said = run.stdout + run.stderr
    assert run.returncode != 0
    assert sentence in said
    assert "Traceback" not in said
    assert not (tmp_path / "results").exists()


def a_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")


def a_link_to_nowhere(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


@pytest.mark.parametrize(
    ("block", "place"),
    [
        (a_file, "results"),
        (a_link_to_nowhere, "results"),
        (a_file, "results/smoke/tables"),
        (a_file, "results/smoke/fonts"),
        (a_file, "results/smoke/fonts/dataset"),
    ],
)
def test_results_that_cannot_be_written_are_one_sentence(tmp_path, block, place):
    block(tmp_path / place)
    run = snakemake(tmp_path, "--cores", "1")
    assert run.returncode != 0
    assert "name another results folder with --directory" in run.stderr
    assert f"cannot be written: {tmp_path / place}" in run.stderr
    assert "Traceback" not in run.stderr


NO_FONTS = """
from importlib import metadata
found = metadata.entry_points
metadata.entry_points = lambda **of: [] if "font" in of.get("group", "") else found(**of)
"""


def test_no_installed_fonts_are_one_sentence_before_any_job(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(NO_FONTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = snakemake(tmp_path, "--cores", "1")
    assert run.returncode != 0
    assert 'no fonts are installed: get some with pip install -e ".[paper-fonts]"' in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "results").exists()


FONT_FILES = {
    "no font files": ({}, "has no font files, which end in .ttf or .otf"),
    "a corrupt font": ({"broken.ttf": b"no font at all"}, "broken.ttf"),
}


@pytest.mark.parametrize(("files", "sentence"), FONT_FILES.values(), ids=FONT_FILES.keys())
def test_bad_font_files_are_one_sentence_and_leave_nothing(tmp_path, files, sentence):
    folder = tmp_path / "fonts"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    fonts = {**SMOKE["datasets"]["fonts"], "fonts_from": str(folder)}
    config = changed(tmp_path, datasets={"fonts": fonts})
    run = snakemake(tmp_path, "--cores", "1", config=config)
    assert run.returncode != 0
    said = run.stdout + run.stderr
    assert sentence in said, said[-2000:]
    assert "Traceback" not in said
    assert not list(tmp_path.glob("results/*/*/dataset/images*"))


OWN = {
    "sizes": [20],
    "manifolds": {},
    "seeds": 1,
    "cohort_size": 1,
    "classifier": {**SMOKE["classifier"], "epochs": 1},
    "threats": {name: THREATS[name] for name in ("regular", "transformation")},
    "methods": {"normal": {}},
    "attacks": {"regular": {**ATTACKS["regular"], "steps": 2, "examples": 6}},
    "distances": {"examples": 6, "neighbours": 3},
}
"""A study of images whose manifold is not known, as small as it goes."""


def arrays(path: Path, **of) -> dict:
    """The data sets of a study: an npz file of dark and bright images, in colour."""
    labels = np.arange(30) % 2
    noise = np.random.default_rng(0).integers(0, 128, (30, 12, 12, 3), np.uint8)
    images = noise + 127 * labels[:, None, None, None].astype(np.uint8)
    np.savez(path, **{"images": images, "labels": labels, **of})
    return {"mine": {"kind": "npz", "path": str(path)}}


def at_once(said: str, rules: set[str]) -> int:
    """The most jobs of some rules that ran at a time, from what Snakemake said."""
    rule, running, most = "", set(), 0
    for line in said.splitlines():
        if found := re.match(r"(?:local)?rule (\w+):", line):
            rule = found[1]
        elif (found := re.match(r"    jobid: (\d+)", line)) and rule in rules:
            running.add(found[1])
            most = max(most, len(running))
        elif found := re.match(r"Finished jobid: (\d+)", line):
            running.discard(found[1])
    return most


def test_a_study_of_ones_own_arrays_runs(tmp_path):
    """In colour, with a manifold that is learned of all classes, as on a machine with one GPU."""
    learned = {"latent": 2, "channels": [4], "epochs": 1, "batch_size": 10, "judge": {"images": 20}}
    on_data = {"threat": "on_data_manifold", "steps": 2, "examples": 6}
    own = {
        **OWN,
        "datasets": arrays(tmp_path / "mine.npz"),
        "manifolds": {"mine": learned},
        "threats": {**OWN["threats"], "on_data_manifold": ON_DATA},
        "attacks": {"on_data_manifold": on_data},
    }
    config = changed(tmp_path, **own)
    results = "results/smoke"
    rows = f"{results}/mine/attacks/on_data_manifold/normal/n20/seeds0-0.parquet"
    figure, text = f"{results}/mine/figures/data_manifold.png", f"{results}/tables/manifolds.txt"
    study = f"{results}/study.json"
    targets = (rows, figure, text, study)
    profile = HERE / "profiles/gpu"
    run = snakemake(tmp_path, *targets, "--cores", "2", "--profile", profile, config=config)
    assert run.returncode == 0, run.stderr[-3000:]
    on_gpu = yaml.safe_load((profile / "config.yaml").read_text())["set-resources"]
    assert at_once(run.stdout + run.stderr, set(on_gpu)) == 1
    found = pq.read_table(tmp_path / rows).to_pandas()
    attacked = found[found["prediction"] == found["label"]]
    assert (attacked["code_linf"] <= 0.1 + 1e-5).all()
    assert (tmp_path / figure).stat().st_size > 1000
    assert "Data set mine, data manifold, random steps of 0.1" in (tmp_path / text).read_text()
    models = (tmp_path / results / "mine/manifolds").glob("*.safetensors")
    assert {path.stem for path in models} == {"all", "judge", "data_manifold"}
    examples = tmp_path / results / "mine/dataset/examples.parquet"
    assert pq.read_schema(examples).equals(tables.EXAMPLES)

    assert "downloads" not in json.loads((tmp_path / study).read_text())
    moved = {**yaml.safe_load(config.read_text()), "downloads": {"folder": "elsewhere"}}
    config.write_text(yaml.safe_dump(moved, sort_keys=False))
    assert wanted(snakemake(tmp_path, *targets, "-n", config=config)) == {}
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.npz").rename(tmp_path / "elsewhere/photos.npz")
    moved["datasets"]["mine"]["path"] = "~/photos.npz"
    config.write_text(yaml.safe_dump(moved, sort_keys=False))
    home = str(tmp_path / "elsewhere")
    assert wanted(snakemake(tmp_path, *targets[:-1], "-n", config=config, HOME=home)) == {}
    arrays(tmp_path / "elsewhere/photos.npz", labels=1 - np.arange(30) % 2)
    assert wanted(snakemake(tmp_path, rows, "-n", config=config, HOME=home))["images"] == 1


def run_own_study(tmp_path: Path, change_test) -> Path:
    """Run a study on arrays whose test split is that of `change_test(images, labels)`: tables."""
    arrays(tmp_path / "mine.npz")
    with np.load(tmp_path / "mine.npz") as train:
        images, labels = change_test(train["images"], train["labels"])
    test = {"test_images": images, "test_labels": labels}
    own = {
        **OWN,
        "datasets": arrays(tmp_path / "mine.npz", **test),
        "sizes": [30],
        "classifier": {**SMOKE["classifier"], "epochs": 20, "batch_size": 10},
    }
    run = snakemake(tmp_path, "--cores", "2", config=changed(tmp_path, **own))
    assert run.returncode == 0, run.stderr[-3000:]
    return tmp_path / "results/smoke/tables"


@pytest.mark.long
def test_a_study_whose_models_are_always_wrong_ends(tmp_path):
    """All test labels are wrong: nothing is attacked, and every claim is undecided."""
    tables = run_own_study(tmp_path, lambda images, labels: (images, 1 - labels))
    (row,) = pq.read_table(tables / "success_rates.parquet").to_pylist()
    assert (row["attacked"], row["successes"], row["success_rate"]) == (0, 0, None)
    verdicts = set(pq.read_table(tables / "claims.parquet")["verdict"].to_pylist())
    assert verdicts == {"undecided"}


@pytest.mark.long
def test_a_study_without_test_images_of_a_class_ends(tmp_path):
    """Every stage, down to figures and claims, has test images of the other class only."""

    def keep_first_class(images, labels):
        return images[labels == 0], labels[labels == 0]

    tables = run_own_study(tmp_path, keep_first_class)
    (row,) = pq.read_table(tables / "success_rates.parquet").to_pylist()
    assert row["attacked"] > 0
    assert (tables.parent / "mine/figures/figure1.png").exists()
    log = (tables.parent / "logs/mine/images.log").read_text()
    assert "1 of 2 classes have no test images" in log, log


def write_documented_files(tmp_path: Path) -> None:
    """The user's files that a page names: dark and bright photos, the same as arrays, and fonts."""
    rng = np.random.default_rng(0)
    photos = {
        name: rng.integers(darkest, darkest + 156, (315, 8, 8, 3), np.uint8)
        for name, darkest in (("cats", 0), ("dogs", 100))
    }
    for name, images in photos.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "photos" / name / f"{number}.png")
    images, labels = np.concatenate(list(photos.values())), np.repeat([0, 1], 315)
    np.savez(tmp_path / "photos.npz", images=images, labels=labels)
    (tmp_path / "my_fonts").mkdir()
    for file in dict.fromkeys(style.file for style in installed_styles()[:40]):
        shutil.copy(file, tmp_path / "my_fonts")


DOCUMENTED = {
    "an npz file": ("mine", ["mine.yaml", "{kind: npz, path: photos.npz}"]),
    "a learned manifold": ("mine", ["mine.yaml", "manifold.yaml"]),
    "a folder of fonts": ("my_fonts", ["my_fonts.yaml"]),
}


@pytest.mark.long
@pytest.mark.parametrize(("study_name", "titles"), DOCUMENTED.values(), ids=DOCUMENTED)
def test_the_other_documented_studies_run_through(tmp_path, study_name, titles):
    """The configs of the page as they are printed; a block without a title by what it contains."""
    write_documented_files(tmp_path)
    page = blocks("own-data.md", "yaml")
    configs = []
    for number, title in enumerate(titles):
        (text,) = (b.text for b in page if b.title == title or (not b.title and title in b.text))
        configs.append(tmp_path / f"{number}.yaml")
        configs[-1].write_text(text)
    options = ("--configfile", *configs) if len(configs) > 1 else ()
    run = snakemake(tmp_path, "--cores", "2", *options, config=configs[0])
    assert run.returncode == 0, run.stderr[-3000:]
    results = tmp_path / "results" / study_name
    assert pq.read_metadata(results / "tables/success_rates.parquet").num_rows > 0
    assert (results / "figures/figure3.png").stat().st_size > 1000


@pytest.mark.long
def test_the_documented_study_of_ones_own_images_runs_through(tmp_path):
    """The config as it is printed, on a folder of dark and bright photos: up to the figures."""
    whole = block("own-data.md", "mine.yaml")
    assert len(whole.splitlines()) == 10
    config = tmp_path / "mine.yaml"
    config.write_text(whole)
    write_documented_files(tmp_path)
    run = snakemake(tmp_path, "--cores", "2", config=config)
    assert run.returncode == 0, run.stderr[-3000:]
    results = tmp_path / "results/mine"
    assert pq.read_metadata(results / "tables/errors.parquet").num_rows == 2 * 3
    assert pq.read_metadata(results / "mine/dataset/examples.parquet").num_rows == 630
    for name in ("mine/figures/figure1", "figures/figure2", "figures/figure3", "figures/figure4"):
        assert (results / f"{name}.png").stat().st_size > 1000
    (tmp_path / "manifold.yaml").write_text(block("own-data.md", "manifold.yaml"))
    both = ("--configfile", config, tmp_path / "manifold.yaml")
    jobs = wanted(snakemake(tmp_path, "-n", *both, config=config))
    assert {rule: jobs[rule] for rule in ("vaegan", "train", "attack")} == {
        "vaegan": 2,
        "train": 1,
        "attack": 4,
    }


def test_letters_and_images_may_share_a_study(tmp_path):
    datasets = {**SMOKE["datasets"], **arrays(tmp_path / "mine.npz")}
    run = snakemake(
        tmp_path, "-n", config=changed(tmp_path, **{**OWN, "sizes": [18], "datasets": datasets})
    )
    jobs = wanted(run)
    stages = ("images", "prototypes", "codes", "train", "prototype_sheet", "figure1")
    assert [jobs[stage] for stage in stages] == [1, 1, 1, 2, 1, 2]


def test_a_folder_of_images_is_looked_at_before_any_job(tmp_path):
    for at in range(40):
        (tmp_path / "photos" / "ab"[at % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 10), at).save(tmp_path / "photos" / "ab"[at % 2] / f"{at}.png")
    mine = {"mine": {"kind": "images", "path": "photos"}}
    config = changed(tmp_path, datasets=mine, **OWN)
    target = "results/smoke/mine/dataset/examples.parquet"
    run = snakemake(tmp_path, target, "--cores", "1", config=config)
    assert run.returncode == 0, run.stderr[-3000:]
    os.utime(tmp_path / "photos/a/0.png", (1, 1))
    assert wanted(snakemake(tmp_path, target, "-n", config=config)) == {}
    Image.new("L", (12, 10), 99).save(tmp_path / "photos/a/0.png")
    assert wanted(snakemake(tmp_path, target, "-n", config=config))["images"] == 1
    run = snakemake(
        tmp_path, "-n", config=changed(tmp_path, **{**OWN, "sizes": [34]}, datasets=mine)
    )
    assert run.returncode != 0
    assert "sizes[0] is 34, but must be at most 32, the number of train images" in run.stderr
    (tmp_path / "photos/a/0.png").write_bytes(b"no image")
    run = snakemake(tmp_path, "-n", config=changed(tmp_path, datasets=mine, **OWN))
    assert run.returncode != 0
    assert "photos/a/0.png is not a readable PNG, JPEG, WebP, TIFF or BMP file" in run.stderr
    assert "Traceback" not in run.stderr


BAD_ARRAYS = {
    "labels": ({"labels": np.ones(30)}, "are float64, but must be of a type of whole"),
    "pixels": (
        {"images": np.ones((30, 12, 12)) * 2},
        "have the pixel 2, but must be in [0, 1]",
    ),
}


@pytest.mark.parametrize(("of", "sentence"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_bad_arrays_are_one_sentence_and_leave_nothing(tmp_path, of, sentence):
    config = changed(tmp_path, datasets=arrays(tmp_path / "mine.npz", **of), **OWN)
    target = "results/smoke/mine/dataset/images.safetensors"
    run = snakemake(tmp_path, target, "--cores", "1", config=config)
    said = run.stdout + run.stderr
    assert run.returncode != 0
    assert sentence in said, said[-2000:]
    assert "Traceback" not in said
    assert not list(tmp_path.glob("results/*/*/dataset/*"))
