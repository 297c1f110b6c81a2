"""Distances of adversarial examples, and of clean test images, to the manifold."""

from robustgen.config.job_params import distance_params


rule distances:
    input:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        rows=f"{RESULTS}/{{dataset}}/attacks/{{attack}}/{COHORT}.parquet",
        found=f"{RESULTS}/{{dataset}}/attacks/{{attack}}/{COHORT}.safetensors",
        manifold=nearest_learned,
    output:
        distances=f"{RESULTS}/{{dataset}}/distances/{{attack}}/{COHORT}.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/distances/{{attack}}/{COHORT}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/distances/{{attack}}/{COHORT}.tsv"
    threads: 1
    resources:
        mem_mb=memory(3000),
        runtime=120,
    params:
        settings=lambda w: distance_params(STUDY, w.dataset, w.attack),
        code=lambda w: code_of("distances", () if nearest_learned(w) else VAEGANS),
    script:
        "../scripts/distances.py"


rule clean_distances:
    input:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        manifold=nearest_learned,
    output:
        distances=f"{RESULTS}/{{dataset}}/distances/clean.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/distances/clean.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/distances/clean.tsv"
    threads: 1
    resources:
        mem_mb=memory(3000),
        runtime=120,
    params:
        settings=lambda w: distance_params(STUDY, w.dataset, "clean"),
        code=lambda w: code_of("clean_distances", () if nearest_learned(w) else VAEGANS),
    script:
        "../scripts/clean_distances.py"
