"""How good learned manifolds are: a table, and sheets of what the VAE-GANs make."""

from robustgen.config.job_params import judge_params, quality_params

LEARNED_OF = [(name, space) for name in STUDY.datasets for space in STUDY.learned_manifolds(name)]
LEARNED_WHERE = dict(zip(("dataset", "space"), zip(*LEARNED_OF)))


rule judge:
    input:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
    output:
        cohort=f"{MANIFOLD}/judge.safetensors",
        curves=f"{MANIFOLD}/judge.curves.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/judge.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/judge.tsv"
    cache: CACHING
    priority: PRIORITY["classifiers"]
    threads: 1
    resources:
        mem_mb=memory(3000),
        runtime=240,
    params:
        settings=lambda w: judge_params(STUDY, w.dataset),
        code=code_of("judge", SEARCH + VAEGANS),
    script:
        "../scripts/judge.py"


rule quality:
    input:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        models=vaegans,
        judge=rules.judge.output.cohort,
    output:
        quality=f"{MANIFOLD}/{{space}}.quality.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/quality/{{space}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/quality/{{space}}.tsv"
    wildcard_constraints:
        space=one_of(LEARNED_MANIFOLDS),
    threads: 1
    resources:
        mem_mb=memory(3000),
        runtime=60,
    params:
        settings=lambda w: quality_params(STUDY, w.dataset, w.space),
        code=code_of("quality"),
    script:
        "../scripts/quality.py"


rule all_quality:
    input:
        parts=(expand(rules.quality.output.quality, zip, **LEARNED_WHERE) if LEARNED_OF else []),
    output:
        quality=f"{RESULTS}/tables/manifolds.parquet",
        text=report(
            f"{RESULTS}/tables/manifolds.txt",
            caption=f"{REPORT}/manifolds.rst",
            category="Claims",
            labels={"table": "learned manifolds"},
        ),
    log:
        f"{RESULTS}/logs/tables/manifolds.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables/manifolds.tsv"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        code=code_of("all_quality"),
    script:
        "../scripts/all_quality.py"


rule manifold_sheet:
    input:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        models=vaegans,
    output:
        **figure(
            "manifold",
            "{dataset}/figures",
            "{space}",
            dataset="{dataset}",
            space="{space}",
        ),
    log:
        f"{RESULTS}/logs/{{dataset}}/manifold_sheet/{{space}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/manifold_sheet/{{space}}.tsv"
    wildcard_constraints:
        space=one_of(LEARNED_MANIFOLDS),
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=10,
    params:
        settings=lambda w: {"study_seed": STUDY.seed, "dataset": w.dataset},
        code=code_of("manifold_sheet"),
    script:
        "../scripts/manifold_sheet.py"


SHEETS = expand(rules.manifold_sheet.output, zip, **LEARNED_WHERE) if LEARNED_OF else []
