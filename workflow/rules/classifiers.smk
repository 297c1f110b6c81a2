"""Cohorts of classifiers, their learning curves and their predictions on the test split."""

from robustgen.config.job_params import training_params


rule train:
    input:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        manifold=manifold_files_of(lambda wildcards: STUDY.methods[wildcards.method]),
    output:
        cohort=f"{RESULTS}/{{dataset}}/classifiers/{COHORT}.safetensors",
        curves=f"{RESULTS}/{{dataset}}/classifiers/{COHORT}.curves.parquet",
        predictions=f"{RESULTS}/{{dataset}}/classifiers/{COHORT}.predictions.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/train/{COHORT}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/train/{COHORT}.tsv"
    priority: PRIORITY["classifiers"]
    threads: 1
    resources:
        mem_mb=memory_mb(2000),
        runtime=lambda wildcards: 30 + int(wildcards.n) // 10,
    params:
        settings=lambda wildcards: training_params(STUDY, wildcards.dataset, wildcards.method),
        code=lambda wildcards: code_fingerprint(
            "train", unused_modules(STUDY.methods[wildcards.method])
        ),
    script:
        "../scripts/train.py"
