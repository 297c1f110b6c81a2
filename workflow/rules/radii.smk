"""The smallest perturbation of each image: sizes per model, and success against the radius."""

from itertools import chain

from robustgen.config.roles import attacks_caption, find_minimal_attacks

MINIMAL_ATTACKS = {name: find_minimal_attacks(STUDY, name) for name in STUDY.datasets}
MINIMAL_TABLES, MINIMAL_KEYS = per_cohort(
    "{dataset}/attacks/{attack}/{method}/n{n}/{cohort}.parquet",
    attack=MINIMAL_ATTACKS.get,
)
CURVE_ATTACKS = {name: attacks for name, attacks in MINIMAL_ATTACKS.items() if attacks}
CURVE_POINTS = dict.fromkeys(
    chain(*(a["points"] for attacks in CURVE_ATTACKS.values() for a in attacks.values()))
)


rule smallest_perturbations:
    input:
        parts=MINIMAL_TABLES,
    output:
        smallest=f"{RESULTS}/tables/smallest_perturbations.parquet",
        curves=f"{RESULTS}/tables/radius_curves.parquet",
    log:
        f"{RESULTS}/logs/tables/smallest_perturbations.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables/smallest_perturbations.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        part_keys=MINIMAL_KEYS,
        norms={
            name: attack["norm"]
            for attacks in MINIMAL_ATTACKS.values()
            for name, attack in attacks.items()
        },
        code=code_fingerprint("smallest_perturbations"),
    script:
        "../scripts/smallest_perturbations.py"


rule figure5:
    input:
        curves=rules.smallest_perturbations.output.curves,
        over_seeds=f"{RESULTS}/tables/over_seeds.parquet",
    output:
        **figure("figure5"),
    log:
        f"{RESULTS}/logs/figures/figure5.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/figure5.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        attacks=CURVE_ATTACKS,
        attacks_caption=attacks_caption(STUDY, CURVE_POINTS),
        code=code_fingerprint("figure5"),
    script:
        "../scripts/figure5.py"
