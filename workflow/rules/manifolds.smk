"""Learned manifolds: a VAE-GAN per class and one for all classes, and the codes of every image."""

from robustgen.settings import LEARNED

MANIFOLD = f"{RESULTS}/{{dataset}}/manifolds"


def parts_of(dataset, space):
    """The VAE-GANs of a space: of each class by its number, or of all."""
    if space == "data_manifold":
        return ["all"]
    return [f"class{label}" for label in range(STUDY.datasets[dataset].classes)]


def learned_by(search_of):
    """The files of the learned manifold that a job's threat lies on, if it lies on one.

    Codes first, then a decoder per class; as an input function of a rule for searches.
    """

    def files(w):
        space = STUDY.space(search_of(w))
        if space not in LEARNED:
            return []
        folder = MANIFOLD.format(dataset=w.dataset)
        models = [f"{folder}/{part}.safetensors" for part in parts_of(w.dataset, space)]
        return [f"{folder}/{space}.safetensors", *models]

    return files


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
    threads: 1
    resources:
        mem_mb=4000,
        runtime=720,
    params:
        settings=lambda w: STUDY.manifold_part(w.dataset),
        code=code_of("vaegan"),
    script:
        "../scripts/vaegan.py"


rule latent_codes:
    input:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        models=lambda w: [f"{MANIFOLD}/{part}.safetensors" for part in parts_of(w.dataset, w.space)],
    output:
        codes=f"{MANIFOLD}/{{space}}.safetensors",
    log:
        f"{RESULTS}/logs/{{dataset}}/latent_codes/{{space}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/latent_codes/{{space}}.tsv"
    wildcard_constraints:
        space=one_of(LEARNED),
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code_of("latent_codes"),
    script:
        "../scripts/latent_codes.py"
