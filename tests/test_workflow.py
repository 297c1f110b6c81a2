"""The workflow, run from the command line in a folder of its own, as users run it."""

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
from conftest import (
    PART,
    ROOT,
    SMOKE,
    count_equal_files,
    count_planned_jobs,
    snakemake,
    write_config,
)
from pages import read_block, read_blocks
from PIL import Image
from safetensors import safe_open

from robustgen.data.font_files import list_installed_styles
from robustgen.io import schemas as tables

THREATS, ATTACKS = SMOKE["threats"], SMOKE["attacks"]
DATA = "results/smoke/fonts"


def test_a_run_prints_no_warning(study):
    assert "Warning" not in (study / "stderr.txt").read_text()


def test_a_run_ends_with_the_verdicts_and_the_paths_of_its_results(study):
    stdout = (study / "stdout.txt").read_text()
    verdicts = (study / "results/smoke/tables/verdicts.txt").read_text()
    assert f"\n{verdicts}\nTables:  results/smoke/tables\n" in stdout
    assert "Report:  make it with snakemake --report results/smoke/report.html" in stdout
    assert stdout.endswith(f" --directory {study} --configfile {ROOT}/config/smoke.yaml\n")


def test_a_second_run_has_no_jobs(study):
    assert count_planned_jobs(snakemake(study, "-n")) == {}


SCHEMAS = {
    "tables/errors.parquet": (tables.ERRORS, 6 * 2),
    "tables/success_rates.parquet": (tables.SUCCESS_RATES, 6 * 2 * 8),
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


def test_files_contain_their_settings_and_provenance(study):
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
    job_counts = count_planned_jobs(snakemake(study, "-n", "--forceall"))
    job_count = sum(job_counts.values()) - job_counts["all"]  # `all` is the only rule without a log
    for folder, suffix in (("logs", ".log"), ("benchmarks", ".tsv")):
        assert len(list((root / folder).rglob(f"*{suffix}"))) >= job_count, folder
    log = (root / "logs/fonts/train/normal/n60/seeds0-1.log").read_text()
    assert "epoch 3/3, 0 s left" in log
    assert log.rstrip().endswith("done")


def test_result_tables_contain_no_times(study):
    names = {
        name
        for path in (study / "results/smoke").rglob("*.parquet")
        for name in pq.read_schema(path).names
    }
    assert not {name for name in names if "time" in name or "second" in name}


@pytest.mark.long
def test_results_do_not_depend_on_cores_or_on_other_parts_of_the_study(study, tmp_path):
    """A part of the study, run on one core, gives the same bytes as in the whole study."""
    cohort = "n60/seeds0-1.parquet"
    targets = [f"{DATA}/distances/clean.parquet"]
    targets.append(f"{DATA}/distances/regular/normal/{cohort}")
    targets.append(f"{DATA}/attacks/on_true_manifold/on_true_manifold/{cohort}")
    run = snakemake(tmp_path, *targets, "--cores", "1", config=write_config(tmp_path, **PART))
    assert run.returncode == 0, run.stderr[-3000:]
    file_count = 0
    for path in sorted((tmp_path / DATA).rglob("*")):
        if path.suffix in (".parquet", ".safetensors"):
            expected = study / path.relative_to(tmp_path)
            assert filecmp.cmp(expected, path, shallow=False), path.name
            file_count += 1
    manifold = 3 * 3 + 1  # for each letter two files of its model and one of curves; the codes
    assert file_count == 3 + manifold + 2 * 3 + 2 * 2 + 1 + 1
    rules = re.findall(r"^(?:local)?rule (\w+):", run.stdout + run.stderr, re.M)
    order = [rule for rule, _ in groupby(rules)]
    assert set(order[:2]) == {"prototypes", "codes"}
    assert order[2:6] == ["vaegan", "latent_codes", "train", "attack"], "longest chains first"


@pytest.mark.long
def test_a_second_smoke_study_gives_the_same_bytes(study, tmp_path):
    run = snakemake(tmp_path, "--cores", "1")
    assert run.returncode == 0, run.stderr[-3000:]
    assert count_equal_files(study, tmp_path) == count_equal_files(study, study)


def test_a_learned_manifold_is_trained_and_attacked(study):
    """There are a VAE-GAN per class, codes of every image, and an attack within their ball."""
    folder = study / DATA / "manifolds"
    models = sorted(path.name for path in folder.glob("class*.safetensors"))
    assert models == ["class0.safetensors", "class1.safetensors", "class2.safetensors"]
    with safe_open(folder / "learned_manifold.safetensors", "numpy") as file:
        codes = {split: file.get_tensor(split) for split in ("train", "test")}
    shapes = {split: values.shape for split, values in codes.items()}
    assert shapes == {"train": (288, 4), "test": (144, 4)}
    path = study / DATA / "attacks/on_learned_manifold/normal/n60/seeds0-1.parquet"
    rows = pq.read_table(path).to_pandas()
    attacked = rows[rows["prediction"] == rows["label"]]
    assert (attacked["code_linf"] <= 0.3 + 1e-5).all()
    distances = pq.read_table(study / "results/smoke/tables/distances.parquet").to_pandas()
    assert set(distances["attack"]) == {
        "clean",
        "regular",
        "on_true_manifold",
        "on_learned_manifold",
    }
    kinds = ("true_manifold", "learned_manifold", "neighbour")
    assert distances[[f"{kind}_distance" for kind in kinds]].notna().all(axis=None)
    claims = pq.read_table(study / "results/smoke/tables/claims.parquet").to_pandas()
    is_learned = claims["manifold"] == "learned_manifold"
    assert claims["rule"][is_learned].str.contains("the learned manifold is too poor").all()
    assert not claims["rule"][~is_learned].str.contains("poor").any()


def read_class_name(path: Path) -> str:
    """Return the name of the class whose VAE-GAN is stored for reuse in a file."""
    with safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["robustgen"])
    return json.loads(header["identity"])["settings"]["name"]


@pytest.mark.long
def test_an_added_class_trains_one_manifold(study, tmp_path):
    """A lost VAE-GAN is trained again to the same bytes, and its damaged checkpoint is ignored."""
    folder = f"{DATA}/manifolds"
    shutil.copytree(study / folder / "trained", tmp_path / folder / "trained")
    stored = {read_class_name(path): path for path in (tmp_path / folder / "trained").iterdir()}
    assert set(stored) == {"class A", "class B", "class C"}
    stored["class B"].unlink()
    damaged = tmp_path / folder / "class1.checkpoint.safetensors"
    damaged.write_bytes(b"damaged")
    fonts = {**SMOKE["datasets"]["fonts"], "letters": "ABCD"}
    config = write_config(tmp_path, datasets={"fonts": fonts}, sizes=[60])
    codes = f"{folder}/learned_manifold.safetensors"
    run = snakemake(tmp_path, codes, "--cores", "2", config=config)
    assert run.returncode == 0, run.stderr[-3000:]
    logs = [tmp_path / f"results/smoke/logs/fonts/vaegan/class{k}.log" for k in range(4)]
    is_reused = ["trained before" in log.read_text() for log in logs]
    assert is_reused == [True, False, True, False]
    assert "the job starts from the beginning" in logs[1].read_text()
    assert not damaged.exists()
    for k in range(3):
        for name in (f"class{k}.safetensors", f"class{k}.curves.parquet"):
            path = f"{folder}/{name}"
            assert filecmp.cmp(study / path, tmp_path / path, shallow=False), name


ON_DATA = {"space": "data_manifold", "norm": "linf", "radius": 0.1}
PLANS = {
    "paper.yaml": {"train": (11 + 9 + 9) * 8, "attack": (11 * 13 + 9 * 11 * 2) * 8, "vaegan": 33},
    "celeba.yaml": {"train": 9 * 8, "attack": 9 * 11 * 8, "vaegan": 3},
    "fashion.yaml": {"train": 6 * 2, "attack": 6 * 8 * 2, "vaegan": 10},
}


def plan_study(folder: Path, config: Path, *options: str) -> tuple[dict[str, int], float]:
    """Plan a study; return the number of jobs of each rule, and the CPU time in seconds.

    Only the CPU time of child processes is counted. The dry run is one because a variable is set;
    without variables, a server would run it.
    """
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = snakemake(folder, "-n", *options, config=config, ROBUSTGEN_DEVICE="cpu")
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    assert seconds > 0.1, "the dry run was no child of this process"
    return count_planned_jobs(run), seconds


@pytest.mark.slow
@pytest.mark.parametrize(("config", "expected"), PLANS.items(), ids=PLANS)
def test_the_shipped_studies_are_planned(tmp_path, config, expected):
    jobs, seconds = plan_study(tmp_path, ROOT / "config" / config)
    assert {rule: jobs[rule] for rule in expected} == expected
    assert seconds < 30


@pytest.mark.long
def test_planning_time_is_proportional_to_the_number_of_jobs(tmp_path):
    """The paper's study is compared with one of ten times as many seeds."""
    options = ("--quiet", "rules", "--config")
    config = ROOT / "config/paper.yaml"
    jobs, seconds = plan_study(tmp_path, config, *options, "seeds=5")
    more_jobs, more_seconds = plan_study(tmp_path, config, *options, "seeds=50")
    assert more_jobs["attack"] == 10 * jobs["attack"]
    assert more_seconds < 12 * seconds


def test_a_config_file_replaces_the_demo(tmp_path):
    """No key of config.yaml, which has several methods, is added to another study."""
    run = snakemake(tmp_path, "-n", config=write_config(tmp_path, methods={"normal": {}}))
    assert count_planned_jobs(run)["train"] == 1


BAD_CONFIGS = {
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


@pytest.mark.slow
def test_a_weak_search_is_warned_of_before_any_job(tmp_path):
    attacks = {**ATTACKS, "regular": {**ATTACKS["regular"], "steps": 2}}
    run = snakemake(tmp_path, "-n", config=write_config(tmp_path, attacks=attacks))
    assert (
        "robustgen: the steps of attacks.regular (2 steps of 0.05 move at most 0.1," in run.stdout
    )


@pytest.mark.slow
@pytest.mark.parametrize(("keys", "sentence"), BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_a_bad_config_is_reported_in_one_sentence_before_any_job(tmp_path, keys, sentence):
    run = snakemake(tmp_path, "--cores", "1", config=write_config(tmp_path, **keys))
    output = run.stdout + run.stderr
    assert run.returncode != 0
    assert sentence in output
    assert "Traceback" not in output
    assert not (tmp_path / "results").exists()


def write_file(path: Path) -> None:
    """Write a file where the workflow needs a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file in place of a folder")


def make_dangling_link(path: Path) -> None:
    """Make a link whose target does not exist."""
    path.symlink_to(path.with_name("missing"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make_obstacle", "folder"),
    [
        (write_file, "results"),
        (make_dangling_link, "results"),
        (write_file, "results/smoke/tables"),
        (write_file, "results/smoke/fonts"),
        (write_file, "results/smoke/fonts/dataset"),
    ],
)
def test_a_results_folder_that_cannot_be_written_is_reported(tmp_path, make_obstacle, folder):
    make_obstacle(tmp_path / folder)
    run = snakemake(tmp_path, "--cores", "1")
    assert run.returncode != 0
    assert "name another results folder with --directory" in run.stderr
    assert f"cannot be written: {tmp_path / folder}" in run.stderr
    assert "Traceback" not in run.stderr


NO_FONTS = """
from importlib import metadata
entry_points = metadata.entry_points
def find_others(**selection):
    return [] if "font" in selection.get("group", "") else entry_points(**selection)
metadata.entry_points = find_others
"""
"""A sitecustomize module with which no font package is installed."""


def test_missing_font_packages_are_reported_before_any_job(tmp_path, monkeypatch):
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


@pytest.mark.slow
@pytest.mark.parametrize(("files", "sentence"), FONT_FILES.values(), ids=FONT_FILES.keys())
def test_bad_font_files_are_reported_and_leave_no_results(tmp_path, files, sentence):
    folder = tmp_path / "fonts"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    fonts = {**SMOKE["datasets"]["fonts"], "font_source": str(folder)}
    config = write_config(tmp_path, datasets={"fonts": fonts})
    run = snakemake(tmp_path, "--cores", "1", config=config)
    assert run.returncode != 0
    output = run.stdout + run.stderr
    assert sentence in output, output[-2000:]
    assert "Traceback" not in output
    assert not list(tmp_path.glob("results/*/*/dataset/images*"))


IMAGE_STUDY = {
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
"""Keys of a small study of images whose manifold is not known."""


def write_arrays(path: Path, **replacements) -> dict:
    """Write an npz file of dark and bright colour images; return the `datasets` of its config.

    Args:
        path: path of the file.
        replacements: further arrays, or others in place of `images` and `labels`.
    """
    labels = np.arange(30) % 2
    noise = np.random.default_rng(0).integers(0, 128, (30, 12, 12, 3), np.uint8)
    images = noise + 127 * labels[:, None, None, None].astype(np.uint8)
    np.savez(path, **{"images": images, "labels": labels, **replacements})
    return {"mine": {"kind": "npz", "path": str(path)}}


def max_parallel_jobs(output: str, rules: set[str]) -> int:
    """Return the largest number of jobs of `rules` that ran together, by Snakemake's output."""
    rule, running, max_running = "", set(), 0
    for line in output.splitlines():
        if match := re.match(r"(?:local)?rule (\w+):", line):
            rule = match[1]
        elif (match := re.match(r"    jobid: (\d+)", line)) and rule in rules:
            running.add(match[1])
            max_running = max(max_running, len(running))
        elif match := re.match(r"Finished jobid: (\d+)", line):
            running.discard(match[1])
    return max_running


ROWS = "results/smoke/mine/attacks/on_data_manifold/normal/n20/seeds0-0.parquet"
FIGURE = "results/smoke/mine/figures/data_manifold.png"
QUALITY = "results/smoke/tables/manifolds.txt"
RECORD = "results/smoke/study.json"


@pytest.mark.slow
def test_a_study_of_the_users_arrays_runs(tmp_path):
    """The arrays are in colour, one VAE-GAN learns all classes, and the profile is for one GPU."""
    learned = {
        "latent_dim": 2,
        "channels": [4],
        "epochs": 1,
        "batch_size": 10,
        "judge": {"images": 20},
    }
    attack = {"threat": "on_data_manifold", "steps": 2, "examples": 6}
    keys = {
        **IMAGE_STUDY,
        "datasets": write_arrays(tmp_path / "mine.npz"),
        "manifolds": {"mine": learned},
        "threats": {**IMAGE_STUDY["threats"], "on_data_manifold": ON_DATA},
        "attacks": {"on_data_manifold": attack},
    }
    config = write_config(tmp_path, **keys)
    options = ("--cores", "2", "--profile", ROOT / "profiles/gpu")
    run = snakemake(tmp_path, ROWS, FIGURE, QUALITY, RECORD, *options, config=config)
    assert run.returncode == 0, run.stderr[-3000:]
    profile = yaml.safe_load((ROOT / "profiles/gpu/config.yaml").read_text())
    assert max_parallel_jobs(run.stdout + run.stderr, set(profile["set-resources"])) == 1
    rows = pq.read_table(tmp_path / ROWS).to_pandas()
    attacked = rows[rows["prediction"] == rows["label"]]
    assert (attacked["code_linf"] <= 0.1 + 1e-5).all()
    assert (tmp_path / FIGURE).stat().st_size > 1000
    quality = (tmp_path / QUALITY).read_text()
    assert "Data set mine, data manifold, radius of random steps 0.1" in quality
    models = (tmp_path / "results/smoke/mine/manifolds").glob("*.safetensors")
    assert {path.stem for path in models} == {"all", "judge", "data_manifold"}
    examples = tmp_path / "results/smoke/mine/dataset/examples.parquet"
    assert pq.read_schema(examples).equals(tables.EXAMPLES)
    assert "downloads" not in json.loads((tmp_path / RECORD).read_text())
    check_jobs_after_a_move(tmp_path, config)


def check_jobs_after_a_move(tmp_path: Path, config: Path) -> None:
    """Require that moved arrays run no job of a finished study again, and changed labels do."""
    keys = {**yaml.safe_load(config.read_text()), "downloads": {"folder": "elsewhere"}}
    config.write_text(yaml.safe_dump(keys, sort_keys=False))
    targets = (ROWS, FIGURE, QUALITY)
    assert count_planned_jobs(snakemake(tmp_path, *targets, RECORD, "-n", config=config)) == {}
    home = tmp_path / "elsewhere"
    home.mkdir()
    (tmp_path / "mine.npz").rename(home / "photos.npz")
    keys["datasets"]["mine"]["path"] = "~/photos.npz"
    config.write_text(yaml.safe_dump(keys, sort_keys=False))
    assert (
        count_planned_jobs(snakemake(tmp_path, *targets, "-n", config=config, HOME=str(home))) == {}
    )
    write_arrays(home / "photos.npz", labels=1 - np.arange(30) % 2)
    assert (
        count_planned_jobs(snakemake(tmp_path, ROWS, "-n", config=config, HOME=str(home)))["images"]
        == 1
    )


def run_array_study(tmp_path: Path, make_test_split) -> Path:
    """Run a study on arrays with a test split of its own; return the folder of its tables.

    Args:
        tmp_path: the working directory.
        make_test_split: a function from training images and labels to test images and labels.
    """
    write_arrays(tmp_path / "mine.npz")
    with np.load(tmp_path / "mine.npz") as train:
        images, labels = make_test_split(train["images"], train["labels"])
    test = {"test_images": images, "test_labels": labels}
    keys = {
        **IMAGE_STUDY,
        "datasets": write_arrays(tmp_path / "mine.npz", **test),
        "sizes": [30],
        "classifier": {**SMOKE["classifier"], "epochs": 20, "batch_size": 10},
    }
    run = snakemake(tmp_path, "--cores", "2", config=write_config(tmp_path, **keys))
    assert run.returncode == 0, run.stderr[-3000:]
    return tmp_path / "results/smoke/tables"


@pytest.mark.long
def test_a_study_whose_models_are_always_wrong_ends(tmp_path):
    """All test labels are wrong: no image is attacked, and every claim is undecided."""
    folder = run_array_study(tmp_path, lambda images, labels: (images, 1 - labels))
    (row,) = pq.read_table(folder / "success_rates.parquet").to_pylist()
    assert (row["attacked"], row["successes"], row["success_rate"]) == (0, 0, None)
    verdicts = set(pq.read_table(folder / "claims.parquet")["verdict"].to_pylist())
    assert verdicts == {"undecided"}


@pytest.mark.long
def test_a_study_without_test_images_of_a_class_ends(tmp_path):
    """All stages up to figures and claims work with test images of one class of two."""

    def select_first_class(images, labels):
        return images[labels == 0], labels[labels == 0]

    folder = run_array_study(tmp_path, select_first_class)
    (row,) = pq.read_table(folder / "success_rates.parquet").to_pylist()
    assert row["attacked"] > 0
    assert (folder.parent / "mine/figures/figure1.png").exists()
    log = (folder.parent / "logs/mine/images.log").read_text()
    assert "1 of 2 classes have no test images" in log, log


def write_documented_files(tmp_path: Path) -> None:
    """Write the files that a page names: dark and bright photos, the same as arrays, and fonts."""
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
    for file in dict.fromkeys(style.file for style in list_installed_styles()[:40]):
        shutil.copy(file, tmp_path / "my_fonts")


DOCUMENTED = {
    "an npz file": ("mine", ["mine.yaml", "{kind: npz, path: photos.npz}"]),
    "a learned manifold": ("mine", ["mine.yaml", "manifold.yaml"]),
    "a folder of fonts": ("my_fonts", ["my_fonts.yaml"]),
}


@pytest.mark.long
@pytest.mark.parametrize(("study_name", "titles"), DOCUMENTED.values(), ids=DOCUMENTED)
def test_the_other_documented_studies_run_through(tmp_path, study_name, titles):
    """A config is a block with this title, or a block without a title that contains this text."""
    write_documented_files(tmp_path)
    candidates = read_blocks("own-data.md", "yaml")
    configs = []
    for number, title in enumerate(titles):
        (block,) = (c for c in candidates if title == c.title or (not c.title and title in c.text))
        configs.append(tmp_path / f"{number}.yaml")
        configs[-1].write_text(block.text)
    options = ("--configfile", *configs) if len(configs) > 1 else ()
    run = snakemake(tmp_path, "--cores", "2", *options, config=configs[0])
    assert run.returncode == 0, run.stderr[-3000:]
    results = tmp_path / "results" / study_name
    assert pq.read_metadata(results / "tables/success_rates.parquet").num_rows > 0
    assert (results / "figures/figure3.png").stat().st_size > 1000


@pytest.mark.long
def test_the_documented_study_of_the_users_images_runs_through(tmp_path):
    """The printed config runs up to the figures, on a folder of dark and bright photos."""
    text = read_block("own-data.md", "mine.yaml")
    assert len(text.splitlines()) == 10
    config = tmp_path / "mine.yaml"
    config.write_text(text)
    write_documented_files(tmp_path)
    run = snakemake(tmp_path, "--cores", "2", config=config)
    assert run.returncode == 0, run.stderr[-3000:]
    results = tmp_path / "results/mine"
    assert pq.read_metadata(results / "tables/errors.parquet").num_rows == 2 * 3
    assert pq.read_metadata(results / "mine/dataset/examples.parquet").num_rows == 630
    for name in ("mine/figures/figure1", "figures/figure2", "figures/figure3", "figures/figure4"):
        assert (results / f"{name}.png").stat().st_size > 1000
    (tmp_path / "manifold.yaml").write_text(read_block("own-data.md", "manifold.yaml"))
    config_options = ("--configfile", config, tmp_path / "manifold.yaml")
    jobs = count_planned_jobs(snakemake(tmp_path, "-n", *config_options, config=config))
    assert {rule: jobs[rule] for rule in ("vaegan", "train", "attack")} == {
        "vaegan": 2,
        "train": 1,
        "attack": 4,
    }


@pytest.mark.slow
def test_letters_and_images_may_share_a_study(tmp_path):
    datasets = {**SMOKE["datasets"], **write_arrays(tmp_path / "mine.npz")}
    keys = {**IMAGE_STUDY, "sizes": [18], "datasets": datasets}
    jobs = count_planned_jobs(snakemake(tmp_path, "-n", config=write_config(tmp_path, **keys)))
    rules = ("images", "prototypes", "codes", "train", "prototype_sheet", "figure1")
    assert [jobs[rule] for rule in rules] == [1, 1, 1, 2, 1, 2]


@pytest.mark.slow
def test_a_folder_of_images_is_checked_before_any_job(tmp_path):
    for number in range(40):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 10), number).save(folder / f"{number}.png")
    datasets = {"mine": {"kind": "images", "path": "photos"}}
    config = write_config(tmp_path, datasets=datasets, **IMAGE_STUDY)
    target = "results/smoke/mine/dataset/examples.parquet"
    run = snakemake(tmp_path, target, "--cores", "1", config=config)
    assert run.returncode == 0, run.stderr[-3000:]
    os.utime(tmp_path / "photos/a/0.png", (1, 1))
    assert count_planned_jobs(snakemake(tmp_path, target, "-n", config=config)) == {}
    Image.new("L", (12, 10), 99).save(tmp_path / "photos/a/0.png")
    assert count_planned_jobs(snakemake(tmp_path, target, "-n", config=config))["images"] == 1
    keys = {**IMAGE_STUDY, "sizes": [34], "datasets": datasets}
    run = snakemake(tmp_path, "-n", config=write_config(tmp_path, **keys))
    assert run.returncode != 0
    assert "sizes[0] is 34, but must be at most 32, the number of training images" in run.stderr
    (tmp_path / "photos/a/0.png").write_bytes(b"no image")
    run = snakemake(tmp_path, "-n", config=write_config(tmp_path, datasets=datasets, **IMAGE_STUDY))
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


@pytest.mark.slow
@pytest.mark.parametrize(("replacements", "sentence"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_bad_arrays_are_reported_and_leave_no_results(tmp_path, replacements, sentence):
    datasets = write_arrays(tmp_path / "mine.npz", **replacements)
    config = write_config(tmp_path, datasets=datasets, **IMAGE_STUDY)
    target = "results/smoke/mine/dataset/images.safetensors"
    run = snakemake(tmp_path, target, "--cores", "1", config=config)
    output = run.stdout + run.stderr
    assert run.returncode != 0
    assert sentence in output, output[-2000:]
    assert "Traceback" not in output
    assert not list(tmp_path.glob("results/*/*/dataset/*"))
