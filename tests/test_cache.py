"""Snakemake's cache between workflows: what two studies have in common is computed once."""

import re
import shutil
from pathlib import Path

import pytest
from conftest import HERE, SMOKE, changed, snakemake

MADE = "fonts/manifolds/learned_manifold.safetensors"
FONTS = {**SMOKE["datasets"]["fonts"], "letters": "AB"}


def ran(run) -> list[str]:
    """The rules whose jobs computed something, of a run that says where its files went."""
    assert run.returncode == 0, run.stderr[-3000:]
    return re.findall(r"Moving output file \S*?results/\w+/fonts/(\S+)", run.stderr)


def files(folder: Path) -> dict[str, Path]:
    """What stands under a study's results but logs and checkpoints: links into the cache."""
    links = (path for path in (folder / "fonts").rglob("*") if path.is_symlink())
    return {str(path.relative_to(folder)): path.resolve() for path in links}


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A cache, filled by the study "first"."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "cache").mkdir()
    run = request(folder, "first")
    assert len(ran(run)) == 2 + 1 + 2 * 2 + 1  # prototypes, codes, two VAE-GANs, their codes
    return folder


def request(folder: Path, study: str, *args: str, made: str = MADE, **keys):
    config = changed(folder, study=study, sizes=[60], **{"datasets": {"fonts": FONTS}, **keys})
    target = f"results/{study}/{made}"
    cache = {"SNAKEMAKE_OUTPUT_CACHE": "cache"}  # relative to the folder of the results
    return snakemake(folder, "--cores=2", "--cache", *args, "--", target, config=config, **cache)


def test_two_studies_that_agree_compute_once(shared):
    """Also where what is not asked of these stages differs."""
    run = request(shared, "second", methods={"normal": {}}, seeds=4)
    assert ran(run) == []
    first, second = (files(shared / "results" / name) for name in ("first", "second"))
    assert first == second
    assert MADE in first
    assert len(set(first.values())) == len(first)  # no two jobs were taken for the same
    again = request(shared, "second", "-n", methods={"normal": {}}, seeds=4)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_what_differs_is_computed(shared):
    """Of a VAE-GAN with another beta: that one, and what comes after it."""
    manifold = {**SMOKE["manifolds"]["fonts"], "betas": {1: 2.0}}
    run = request(shared, "third", manifolds={"fonts": manifold})
    made = sorted(Path(name).name for name in ran(run))
    wanted = ["class1.curves.parquet", "class1.safetensors", "learned_manifold.safetensors"]
    assert made == wanted


@pytest.mark.long
def test_a_damaged_file_in_the_cache_is_named(shared, tmp_path):
    shutil.copytree(shared / "cache", tmp_path / "cache")
    bank = "fonts/dataset/images.safetensors"
    damaged = tmp_path / "cache" / files(shared / "results/first")[bank].name
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    trained = "fonts/classifiers/normal/n60/seeds0-1.safetensors"
    run = request(tmp_path, "first", made=trained)
    assert run.returncode != 0
    assert f"remove {damaged}, then name results/first/{bank} as a target" in run.stderr
    damaged.unlink()
    assert ran(request(tmp_path, "first", made=bank)) == [bank[6:], "dataset/fonts.parquet"]


MISSING_CACHES = {
    "no folder is named": ("", "SNAKEMAKE_OUTPUT_CACHE is not set"),
    "the folder does not exist": ("nowhere", "CACHE is nowhere, but {folder}/nowhere is no folder"),
    "it is a file": ("study.yaml", "CACHE is study.yaml, but {folder}/study.yaml is no folder"),
}


@pytest.mark.parametrize(("value", "sentence"), MISSING_CACHES.values(), ids=MISSING_CACHES)
def test_a_cache_that_is_not_there_is_one_sentence(tmp_path, value, sentence):
    config = changed(tmp_path)
    run = snakemake(tmp_path, "-n", "--cache", config=config, SNAKEMAKE_OUTPUT_CACHE=value)
    assert run.returncode != 0
    assert "robustgen: --cache needs a folder that exists: SNAKEMAKE_OUTPUT_CACHE" in run.stderr
    assert sentence.format(folder=tmp_path) in run.stderr
    assert "Traceback" not in run.stderr


# Cached jobs that read the user's files: the key that says where the files are, and the parameter
# that says what they contain.
FILES_OF_USER = {
    "images": ("path", "user_files_digest=lambda w: USER_FILES_DIGESTS[w.dataset]"),
    "prototypes": ("fonts_from", "font_files_digest=lambda w: FONT_FILES_DIGESTS[w.dataset]"),
}


def test_cached_jobs_go_by_their_params():
    """Snakemake's cache does not look at wildcards, by which two jobs would be taken for one."""
    found = 0
    for path in HERE.glob("workflow/rules/*.smk"):
        for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", path.read_text(), re.M):
            if "cache: CACHING" in body:
                found += 1
                script = (HERE / f"workflow/scripts/{name}.py").read_text()
                if name in FILES_OF_USER:
                    key, parameter = FILES_OF_USER[name]
                    location = f'config["datasets"][snakemake.wildcards.dataset].get("{key}"'
                    assert parameter in body, name
                    assert location in script, name
                    script = script.replace(location, "")
                assert "wildcards" not in script, name
    assert found == 6
