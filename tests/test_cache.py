"""Snakemake's cache between workflows: the common parts of two studies are computed once."""

import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, SMOKE, snakemake, write_config

pytestmark = pytest.mark.slow

CODES_FILE = "fonts/manifolds/learned_manifold.safetensors"
FONTS = {**SMOKE["datasets"]["fonts"], "letters": "AB"}


def computed_files(run) -> list[str]:
    """The files that the jobs of a run computed and moved to the cache."""
    assert run.returncode == 0, run.stderr[-3000:]
    return re.findall(r"Moving output file \S*?results/\w+/fonts/(\S+)", run.stderr)


def cached_files(folder: Path) -> dict[str, Path]:
    """The results of a study that are links, by relative path; each with its target."""
    links = (path for path in (folder / "fonts").rglob("*") if path.is_symlink())
    return {str(path.relative_to(folder)): path.resolve() for path in links}


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A cache, filled by the study "first"."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "cache").mkdir()
    run = request(folder, "first")
    # two files of prototypes, one of codes, two of each VAE-GAN, one of their codes
    assert len(computed_files(run)) == 2 + 1 + 2 * 2 + 1
    return folder


def request(folder: Path, study: str, *args: str, file: str = CODES_FILE, **keys):
    config = write_config(folder, study=study, sizes=[60], **{"datasets": {"fonts": FONTS}, **keys})
    target = f"results/{study}/{file}"
    cache = {"SNAKEMAKE_OUTPUT_CACHE": "cache"}  # relative to the folder of the results
    return snakemake(folder, "--cores=2", "--cache", *args, "--", target, config=config, **cache)


@pytest.mark.long
def test_equal_parts_of_two_studies_are_computed_once(shared):
    """Settings that these stages do not use may differ."""
    run = request(shared, "second", methods={"normal": {}}, seeds=4)
    assert computed_files(run) == []
    first, second = (cached_files(shared / "results" / name) for name in ("first", "second"))
    assert first == second
    assert CODES_FILE in first
    assert len(set(first.values())) == len(first)  # every job has its own entry
    dry_run = request(shared, "second", "-n", methods={"normal": {}}, seeds=4)
    assert "Nothing to be done" in dry_run.stdout + dry_run.stderr


@pytest.mark.long
def test_only_changed_parts_are_computed(shared):
    """With another beta, this VAE-GAN and the codes that depend on it are computed."""
    manifold = {**SMOKE["manifolds"]["fonts"], "betas": {1: 2.0}}
    run = request(shared, "third", manifolds={"fonts": manifold})
    names = sorted(Path(name).name for name in computed_files(run))
    expected = ["class1.curves.parquet", "class1.safetensors", "learned_manifold.safetensors"]
    assert names == expected


@pytest.mark.long
def test_a_damaged_file_in_the_cache_is_named(shared, tmp_path):
    shutil.copytree(shared / "cache", tmp_path / "cache")
    images = "fonts/dataset/images.safetensors"
    damaged = tmp_path / "cache" / cached_files(shared / "results/first")[images].name
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    trained = "fonts/classifiers/normal/n60/seeds0-1.safetensors"
    run = request(tmp_path, "first", file=trained)
    assert run.returncode != 0
    assert f"remove {damaged} and run again with results/first/{images} as a target" in run.stderr
    damaged.unlink()
    assert computed_files(request(tmp_path, "first", file=images)) == [
        images[6:],
        "dataset/fonts.parquet",
    ]


MISSING_CACHES = {
    "no folder is named": ("", "SNAKEMAKE_OUTPUT_CACHE is not set"),
    "the folder does not exist": ("nowhere", "CACHE is nowhere, but {folder}/nowhere is no folder"),
    "it is a file": ("study.yaml", "CACHE is study.yaml, but {folder}/study.yaml is no folder"),
}


@pytest.mark.parametrize(("value", "sentence"), MISSING_CACHES.values(), ids=MISSING_CACHES)
def test_a_missing_cache_folder_is_one_sentence(tmp_path, value, sentence):
    config = write_config(tmp_path)
    run = snakemake(tmp_path, "-n", "--cache", config=config, SNAKEMAKE_OUTPUT_CACHE=value)
    assert run.returncode != 0
    assert "robustgen: --cache needs a folder that exists: SNAKEMAKE_OUTPUT_CACHE" in run.stderr
    assert sentence.format(folder=tmp_path) in run.stderr
    assert "Traceback" not in run.stderr


# Cached jobs that read files of the user: the key with the path of the files, and the parameter
# with their digest.
FILES_OF_USER = {
    "images": ("path", "user_files_digest=lambda wildcards: USER_FILES_DIGESTS[wildcards.dataset]"),
    "prototypes": (
        "font_source",
        "font_files_digest=lambda wildcards: FONT_FILES_DIGESTS[wildcards.dataset]",
    ),
}


def test_cached_jobs_depend_on_their_params_only():
    """Snakemake's cache ignores wildcards, so that jobs may differ only by their params."""
    cached_rules = 0
    for path in ROOT.glob("workflow/rules/*.smk"):
        for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", path.read_text(), re.M):
            if "cache: IS_CACHING" in body:
                cached_rules += 1
                script = (ROOT / f"workflow/scripts/{name}.py").read_text()
                if name in FILES_OF_USER:
                    key, parameter = FILES_OF_USER[name]
                    location = f'config["datasets"][snakemake.wildcards.dataset].get("{key}"'
                    assert parameter in body, name
                    assert location in script, name
                    script = script.replace(location, "")
                assert "wildcards" not in script, name
    assert cached_rules == 6
