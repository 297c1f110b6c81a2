"""Distances of adversarial examples, and of clean test images, to the manifold."""

from robustgen.config.job_params import distance_params


rule distances:
    input:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        attack_table=f"{RESULTS}/{{dataset}}/attacks/{{attack}}/{COHORT}.parquet",
        adversarial_examples=f"{RESULTS}/{{dataset}}/attacks/{{attack}}/{COHORT}.safetensors",
        manifold=distance_manifold_files,
    output:
        distances=f"{RESULTS}/{{dataset}}/distances/{{attack}}/{COHORT}.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/distances/{{attack}}/{COHORT}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/distances/{{attack}}/{COHORT}.tsv"
    threads: 1
    resources:
        mem_mb=memory_mb(3000),
        runtime=120,
    params:
        settings=lambda wildcards: distance_params(STUDY, wildcards.dataset, wildcards.attack),
        code=lambda wildcards: code_fingerprint(
            "distances", () if distance_manifold_files(wildcards) else VAEGAN_MODULES
        ),
    script:
        "../scripts/distances.py"


rule clean_distances:
    input:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        manifold=distance_manifold_files,
    output:
        distances=f"{RESULTS}/{{dataset}}/distances/clean.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/distances/clean.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/distances/clean.tsv"
    threads: 1
    resources:
        mem_mb=memory_mb(3000),
        runtime=120,
    params:
        settings=lambda wildcards: distance_params(STUDY, wildcards.dataset, "clean"),
        code=lambda wildcards: code_fingerprint(
            "clean_distances",
            () if distance_manifold_files(wildcards) else VAEGAN_MODULES,
        ),
    script:
        "../scripts/clean_distances.py"
