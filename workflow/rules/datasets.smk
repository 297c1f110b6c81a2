"""Data sets of collected images, public ones or the user's own."""

from robustgen.config.job_params import images_params

COLLECTED = [name for name, dataset in STUDY.datasets.items() if dataset.kind != "fonts"]

with one_sentence():
    OWN_FILES = {name: STUDY.datasets[name].signature() for name in COLLECTED}

# Scripts see it with its defaults; it is in no job's params, so that changing it runs nothing.
config["downloads"] = STUDY.downloads.model_dump(exclude_none=True)


rule images:
    output:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/images.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/images.tsv"
    wildcard_constraints:
        dataset=one_of(COLLECTED),
    cache: CACHING
    priority: PRIORITY["dataset"]
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=240,
    params:
        settings=lambda w: images_params(STUDY, w.dataset),
        own_files=lambda w: OWN_FILES[w.dataset],
        code=code_of("images"),
    script:
        "../scripts/images.py"
