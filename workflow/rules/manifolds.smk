"""Learned manifolds: a VAE-GAN per class and one for all classes, and the codes of every image."""

from robustgen.config.job_params import vaegan_params
from robustgen.specs import LEARNED_MANIFOLDS

MANIFOLD = f"{RESULTS}/{{dataset}}/manifolds"


def parts_of(dataset, space):
    """The VAE-GANs of a space: of each class by its number, or of all."""
    if space == "data_manifold":
        return ["all"]
    return [f"class{label}" for label in range(STUDY.datasets[dataset].classes)]


def learned_files(dataset, space):
    """The files of a learned manifold: codes first, then the VAE-GAN of each class, or of all."""
    folder = MANIFOLD.format(dataset=dataset)
    models = [f"{folder}/{part}.safetensors" for part in parts_of(dataset, space)]
    return [f"{folder}/{space}.safetensors", *models]


def learned_by(search_of):
    """An input function: the files of the learned manifold that a threat is on, if it is on one."""

    def files(w):
        space = STUDY.space_of(search_of(w))
        return learned_files(w.dataset, space) if space in LEARNED_MANIFOLDS else []

    return files


def unused(search):
    """The modules that a method or attack does without: those of threats, or of VAE-GANs."""
    learned = STUDY.space_of(search) in LEARNED_MANIFOLDS
    return (() if search.threat else SEARCH) + (() if learned else VAEGANS)


def nearest_learned(w):
    """The files of the learned manifold to which distances are measured, if there is one."""
    spaces = STUDY.learned_manifolds(w.dataset)
    return learned_files(w.dataset, spaces[0]) if spaces else []


def vaegans(w):
    """The VAE-GANs of a space."""
    return learned_files(w.dataset, w.space)[1:]


rule vaegan:
    input:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
    output:
        model=f"{MANIFOLD}/{{part}}.safetensors",
        curves=f"{MANIFOLD}/{{part}}.curves.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/vaegan/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/vaegan/{{part}}.tsv"
    wildcard_constraints:
        part=r"all|class\d+",
    cache: CACHING
    priority: PRIORITY["manifolds"]
    threads: 1
    resources:
        mem_mb=lambda w: memory(8000 if w.part == "all" else 3000)(w),  # letters are kept as floats
        runtime=720,
    params:
        settings=lambda w: vaegan_params(STUDY, w.dataset, w.part),
        part=lambda w: w.part,
        code=code_of("vaegan"),
    script:
        "../scripts/vaegan.py"


rule latent_codes:
    input:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        models=vaegans,
    output:
        codes=f"{MANIFOLD}/{{space}}.safetensors",
    log:
        f"{RESULTS}/logs/{{dataset}}/latent_codes/{{space}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/latent_codes/{{space}}.tsv"
    wildcard_constraints:
        space=one_of(LEARNED_MANIFOLDS),
    cache: CACHING
    priority: PRIORITY["manifolds"]
    threads: 1
    resources:
        mem_mb=memory(3000),
        runtime=120,
    params:
        space=lambda w: w.space,
        code=code_of("latent_codes"),
    script:
        "../scripts/latent_codes.py"
