"""FONTS: letter prototypes of the fonts on hand, and the codes of every image."""

from robustgen.config.job_params import codes_params, prototypes_params
from robustgen.data.font_files import signature

FONTS = [name for name, dataset in STUDY.datasets.items() if dataset.kind == "fonts"]

with one_sentence():
    FONTS_ON_HAND = {name: signature(STUDY.datasets[name].fonts_from) for name in FONTS}


rule prototypes:
    output:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        fonts=f"{RESULTS}/{{dataset}}/dataset/fonts.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/prototypes.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/prototypes.tsv"
    wildcard_constraints:
        dataset=one_of(FONTS),
    cache: CACHING
    priority: PRIORITY["dataset"]
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=lambda w: prototypes_params(STUDY, w.dataset),
        fonts_on_hand=lambda w: FONTS_ON_HAND[w.dataset],
        code=code_of("prototypes"),
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
        dataset=one_of(FONTS),
    cache: CACHING
    priority: PRIORITY["dataset"]
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=lambda w: codes_params(STUDY, w.dataset),
        code=code_of("codes"),
    script:
        "../scripts/codes.py"


rule prototype_sheet:
    input:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
    output:
        **figure("prototypes", "{dataset}/figures", dataset="{dataset}"),
    log:
        f"{RESULTS}/logs/{{dataset}}/prototype_sheet.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/prototype_sheet.tsv"
    wildcard_constraints:
        dataset=one_of(FONTS),
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        letters=lambda w: STUDY.datasets[w.dataset].letters,
        code=code_of("prototype_sheet"),
    script:
        "../scripts/prototype_sheet.py"
