"""The quality of learned manifolds: a table, and sheets of images that the VAE-GANs decode."""

from robustgen.config.job_params import judge_params, quality_params

LEARNED_SPACES = [
    (name, space) for name in STUDY.datasets for space in STUDY.learned_manifolds(name)
]
LEARNED_WILDCARDS = dict(zip(("dataset", "space"), zip(*LEARNED_SPACES)))


rule judge:
    input:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
    output:
        cohort=f"{MANIFOLD}/judge.safetensors",
        curves=f"{MANIFOLD}/judge.curves.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/judge.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/judge.tsv"
    cache: IS_CACHING
    priority: PRIORITY["classifiers"]
    threads: 1
    resources:
        mem_mb=memory_mb(3000),
        runtime=240,
    params:
        settings=lambda wildcards: judge_params(STUDY, wildcards.dataset),
        code=code_fingerprint("judge", SEARCH_MODULES + VAEGAN_MODULES),
    script:
        "../scripts/judge.py"


rule quality:
    input:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        models=vaegan_files,
        judge=rules.judge.output.cohort,
    output:
        quality=f"{MANIFOLD}/{{space}}.quality.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/quality/{{space}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/quality/{{space}}.tsv"
    wildcard_constraints:
        space=pattern_of(LEARNED_MANIFOLDS),
    threads: 1
    resources:
        mem_mb=memory_mb(3000),
        runtime=60,
    params:
        settings=lambda wildcards: quality_params(STUDY, wildcards.dataset, wildcards.space),
        code=code_fingerprint("quality"),
    script:
        "../scripts/quality.py"


rule all_quality:
    input:
        parts=(
            expand(rules.quality.output.quality, zip, **LEARNED_WILDCARDS)
            if LEARNED_SPACES
            else []
        ),
    output:
        quality=f"{RESULTS}/tables/manifolds.parquet",
        text=report(
            f"{RESULTS}/tables/manifolds.txt",
            caption=f"{CAPTIONS_FOLDER}/manifolds.rst",
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
        code=code_fingerprint("all_quality"),
    script:
        "../scripts/all_quality.py"


rule manifold_sheet:
    input:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        models=vaegan_files,
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
        space=pattern_of(LEARNED_MANIFOLDS),
    threads: 1
    resources:
        mem_mb=memory_mb(2000),
        runtime=10,
    params:
        settings=lambda wildcards: {
            "study_seed": STUDY.seed,
            "dataset": wildcards.dataset,
        },
        code=code_fingerprint("manifold_sheet"),
    script:
        "../scripts/manifold_sheet.py"


SHEETS = expand(rules.manifold_sheet.output, zip, **LEARNED_WILDCARDS) if LEARNED_SPACES else []
