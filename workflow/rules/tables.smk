"""Tables over the whole study: errors, success rates, distances, claims."""

from robustgen.config.roles import find_on_manifold, find_roles

PREDICTIONS, PREDICTION_KEYS = per_cohort(
    "{dataset}/classifiers/{method}/n{n}/{cohort}.predictions.parquet"
)
DISTANCE_TABLES, DISTANCE_KEYS = per_cohort(
    "{dataset}/distances/{attack}/{method}/n{n}/{cohort}.parquet",
    methods=lambda dataset: [m for m in STUDY.methods_of(dataset) if m in STUDY.distances.methods],
    attack=STUDY.distance_attacks,
)


rule record:
    output:
        study=f"{RESULTS}/study.json",
    log:
        f"{RESULTS}/logs/record.log",
    benchmark:
        f"{RESULTS}/benchmarks/record.tsv"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        study=STUDY.to_config(),
        code=code_fingerprint("record"),
    script:
        "../scripts/record.py"


rule errors:
    input:
        parts=PREDICTIONS,
    output:
        errors=f"{RESULTS}/tables/errors.parquet",
    log:
        f"{RESULTS}/logs/tables/errors.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables/errors.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        part_keys=PREDICTION_KEYS,
        code=code_fingerprint("errors"),
    script:
        "../scripts/errors.py"


rule over_seeds:
    input:
        errors=rules.errors.output.errors,
        success_rates=rules.success_rates.output.success_rates,
        smallest=rules.smallest_perturbations.output.smallest,
    output:
        over_seeds=f"{RESULTS}/tables/over_seeds.parquet",
    log:
        f"{RESULTS}/logs/tables/over_seeds.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables/over_seeds.tsv"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        code=code_fingerprint("over_seeds"),
    script:
        "../scripts/over_seeds.py"


rule all_distances:
    input:
        clean=expand(f"{RESULTS}/{{dataset}}/distances/clean.parquet", dataset=STUDY.datasets),
        parts=DISTANCE_TABLES,
    output:
        distances=f"{RESULTS}/tables/distances.parquet",
    log:
        f"{RESULTS}/logs/tables/distances.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables/distances.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        datasets=list(STUDY.datasets),
        part_keys=DISTANCE_KEYS,
        code=code_fingerprint("all_distances"),
    script:
        "../scripts/all_distances.py"


rule claims:
    input:
        errors=rules.errors.output.errors,
        success_rates=rules.success_rates.output.success_rates,
        distances=rules.all_distances.output.distances,
        quality=rules.all_quality.output.quality,
        checks=rules.robustness_checks.output.checks,
    output:
        claims=f"{RESULTS}/tables/claims.parquet",
        verdicts=report(
            f"{RESULTS}/tables/verdicts.txt",
            caption=f"{CAPTIONS_FOLDER}/verdicts.rst",
            category="Claims",
            labels={"table": "verdicts"},
        ),
    log:
        f"{RESULTS}/logs/tables/claims.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables/claims.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        roles=find_roles(STUDY),
        on_manifold={name: find_on_manifold(STUDY, name) for name in STUDY.datasets},
        code=code_fingerprint("claims"),
    script:
        "../scripts/claims.py"
