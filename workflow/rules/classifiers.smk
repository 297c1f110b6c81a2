"""Cohorts of classifiers, their learning curves and their predictions on the test split."""

from robustgen.config.job_params import training_params


rule train:
    input:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        manifold=learned_by(lambda w: STUDY.methods[w.method]),
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
        mem_mb=memory(2000),
        runtime=lambda w: 30 + int(w.n) // 10,
    params:
        settings=lambda w: training_params(STUDY, w.dataset, w.method),
        code=lambda w: code_of("train", unused(STUDY.methods[w.method])),
    script:
        "../scripts/train.py"
