"""FONTS: letter prototypes of the available fonts, and the codes of every image."""

from robustgen.config.job_params import codes_params, prototypes_params
from robustgen.data.font_files import signature

FONT_DATASETS = [name for name, dataset in STUDY.datasets.items() if dataset.kind == "fonts"]

with exit_on_user_error():
    FONT_FILES_DIGESTS = {
        name: signature(STUDY.datasets[name].font_source) for name in FONT_DATASETS
    }


rule prototypes:
    output:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        fonts=f"{RESULTS}/{{dataset}}/dataset/fonts.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/prototypes.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/prototypes.tsv"
    wildcard_constraints:
        dataset=pattern_of(FONT_DATASETS),
    cache: IS_CACHING
    priority: PRIORITY["dataset"]
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=lambda wildcards: prototypes_params(STUDY, wildcards.dataset),
        font_files_digest=lambda wildcards: FONT_FILES_DIGESTS[wildcards.dataset],
        code=code_fingerprint("prototypes"),
    script:
        "../scripts/prototypes.py"


rule codes:
    output:
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/codes.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/codes.tsv"
    wildcard_constraints:
        dataset=pattern_of(FONT_DATASETS),
    cache: IS_CACHING
    priority: PRIORITY["dataset"]
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=lambda wildcards: codes_params(STUDY, wildcards.dataset),
        code=code_fingerprint("codes"),
    script:
        "../scripts/codes.py"


rule prototype_sheet:
    input:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
    output:
        **figure("prototypes", "{dataset}/figures", dataset="{dataset}"),
    log:
        f"{RESULTS}/logs/{{dataset}}/prototype_sheet.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/prototype_sheet.tsv"
    wildcard_constraints:
        dataset=pattern_of(FONT_DATASETS),
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        letters=lambda wildcards: STUDY.datasets[wildcards.dataset].letters,
        code=code_fingerprint("prototype_sheet"),
    script:
        "../scripts/prototype_sheet.py"
