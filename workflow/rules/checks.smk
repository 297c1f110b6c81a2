"""Success rates of all attacks, and signs that they are too low."""

from robustgen.config.roles import find_checked_attacks

ATTACK_TABLES, ATTACK_KEYS = per_cohort(
    "{dataset}/attacks/{attack}/{method}/n{n}/{cohort}.parquet", attack=STUDY.attacks_of
)


rule success_rates:
    input:
        parts=ATTACK_TABLES,
    output:
        success_rates=f"{RESULTS}/tables/success_rates.parquet",
    log:
        f"{RESULTS}/logs/tables/success_rates.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables/success_rates.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        part_keys=ATTACK_KEYS,
        code=code_fingerprint("success_rates"),
    script:
        "../scripts/success_rates.py"


rule robustness_checks:
    input:
        parts=ATTACK_TABLES,
    output:
        checks=f"{RESULTS}/tables/robustness_checks.parquet",
        text=report(
            f"{RESULTS}/tables/robustness_checks.txt",
            caption=f"{CAPTIONS_FOLDER}/robustness_checks.rst",
            category="Claims",
            labels={"table": "warnings about success rates"},
        ),
    log:
        f"{RESULTS}/logs/tables/robustness_checks.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables/robustness_checks.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        part_keys=ATTACK_KEYS,
        attacks=find_checked_attacks(STUDY),
        code=code_fingerprint("robustness_checks"),
    script:
        "../scripts/robustness_checks.py"
