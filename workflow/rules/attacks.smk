"""Attacks on cohorts: a row per model and example, and the adversarial examples."""

from robustgen.config.job_params import attack_params


rule attack:
    input:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        cohort=f"{RESULTS}/{{dataset}}/classifiers/{COHORT}.safetensors",
        manifold=learned_by(lambda w: STUDY.attacks[w.attack]),
    output:
        rows=f"{RESULTS}/{{dataset}}/attacks/{{attack}}/{COHORT}.parquet",
        found=f"{RESULTS}/{{dataset}}/attacks/{{attack}}/{COHORT}.safetensors",
    log:
        f"{RESULTS}/logs/{{dataset}}/attack/{{attack}}/{COHORT}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/attack/{{attack}}/{COHORT}.tsv"
    priority: PRIORITY["attacks"]
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=120,
    params:
        settings=lambda w: attack_params(STUDY, w.dataset, w.attack),
        code=lambda w: code_of("attack", unused(STUDY.attacks[w.attack])),
    script:
        "../scripts/attack.py"
