"""Attacks on cohorts: a table with a row per model and image, and the adversarial examples."""

from robustgen.config.job_params import attack_params


rule attack:
    input:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        cohort=f"{RESULTS}/{{dataset}}/classifiers/{COHORT}.safetensors",
        manifold=manifold_files_of(lambda wildcards: STUDY.attacks[wildcards.attack]),
    output:
        attack_table=f"{RESULTS}/{{dataset}}/attacks/{{attack}}/{COHORT}.parquet",
        adversarial_examples=f"{RESULTS}/{{dataset}}/attacks/{{attack}}/{COHORT}.safetensors",
    log:
        f"{RESULTS}/logs/{{dataset}}/attack/{{attack}}/{COHORT}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/attack/{{attack}}/{COHORT}.tsv"
    priority: PRIORITY["attacks"]
    threads: 1
    resources:
        mem_mb=memory_mb(2000),
        runtime=120,
    params:
        settings=lambda wildcards: attack_params(STUDY, wildcards.dataset, wildcards.attack),
        code=lambda wildcards: code_fingerprint(
            "attack", unused_modules(STUDY.attacks[wildcards.attack])
        ),
    script:
        "../scripts/attack.py"
