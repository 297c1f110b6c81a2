"""Learned manifolds: a VAE-GAN per class and one for all classes, and the codes of every image."""

from robustgen.config.job_params import vaegan_params
from robustgen.specs import LEARNED_MANIFOLDS, vaegan_names

MANIFOLD = f"{RESULTS}/{{dataset}}/manifolds"


def vaegan_parts(dataset, space):
    """Return the names of the VAE-GANs of a space: one for each class, or one for all classes."""
    return vaegan_names(space, STUDY.datasets[dataset].classes)


def manifold_files(dataset, space):
    """Return the files of a learned manifold: the codes, and then its VAE-GANs."""
    folder = MANIFOLD.format(dataset=dataset)
    models = [f"{folder}/{part}.safetensors" for part in vaegan_parts(dataset, space)]
    return [f"{folder}/{space}.safetensors", *models]


def manifold_files_of(search_of):
    """Return an input function: the files of the learned manifold of a search.

    `search_of` is a function from wildcards to a method or an attack. Searches in other spaces have
    no such files.
    """

    def files(wildcards):
        space = STUDY.space_of(search_of(wildcards))
        return manifold_files(wildcards.dataset, space) if space in LEARNED_MANIFOLDS else []

    return files


def unused_modules(search):
    """Return the modules that a method or an attack does not use: of searches, or of VAE-GANs."""
    is_learned = STUDY.space_of(search) in LEARNED_MANIFOLDS
    return (() if search.threat else SEARCH_MODULES) + (() if is_learned else VAEGAN_MODULES)


def distance_manifold_files(wildcards):
    """Return the files of the learned manifold to which distances are measured, if there is one."""
    spaces = STUDY.learned_manifolds(wildcards.dataset)
    return manifold_files(wildcards.dataset, spaces[0]) if spaces else []


def vaegan_files(wildcards):
    """Return the files of the VAE-GANs of a space."""
    return manifold_files(wildcards.dataset, wildcards.space)[1:]


rule vaegan:
    input:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
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
    cache: IS_CACHING
    priority: PRIORITY["manifolds"]
    threads: 1
    resources:
        # Training decodes all images of FONTS to float32.
        mem_mb=lambda wildcards: memory_mb(8000 if wildcards.part == "all" else 3000)(wildcards),
        runtime=720,
    params:
        settings=lambda wildcards: vaegan_params(STUDY, wildcards.dataset, wildcards.part),
        part=lambda wildcards: wildcards.part,
        code=code_fingerprint("vaegan"),
    script:
        "../scripts/vaegan.py"


rule latent_codes:
    input:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        models=vaegan_files,
    output:
        codes=f"{MANIFOLD}/{{space}}.safetensors",
    log:
        f"{RESULTS}/logs/{{dataset}}/latent_codes/{{space}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/latent_codes/{{space}}.tsv"
    wildcard_constraints:
        space=pattern_of(LEARNED_MANIFOLDS),
    cache: IS_CACHING
    priority: PRIORITY["manifolds"]
    threads: 1
    resources:
        mem_mb=memory_mb(3000),
        runtime=120,
    params:
        space=lambda wildcards: wildcards.space,
        code=code_fingerprint("latent_codes"),
    script:
        "../scripts/latent_codes.py"
