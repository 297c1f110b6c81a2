"""Data sets of image files: public ones and the user's own."""

from robustgen.config.job_params import images_params

IMAGE_DATASETS = [name for name, dataset in STUDY.datasets.items() if dataset.kind != "fonts"]

with exit_on_user_error():
    USER_FILES_DIGESTS = {name: STUDY.datasets[name].signature() for name in IMAGE_DATASETS}

# Scripts read this block, with its defaults, from the config. It is not in the params of a job, so
# that a change of it runs no job again.
config["downloads"] = STUDY.downloads.model_dump(exclude_none=True)


rule images:
    output:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/images.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/images.tsv"
    wildcard_constraints:
        dataset=pattern_of(IMAGE_DATASETS),
    cache: IS_CACHING
    priority: PRIORITY["dataset"]
    threads: 1
    resources:
        mem_mb=memory_mb(4000),
        runtime=240,
    params:
        settings=lambda wildcards: images_params(STUDY, wildcards.dataset),
        user_files_digest=lambda wildcards: USER_FILES_DIGESTS[wildcards.dataset],
        code=code_fingerprint("images"),
    script:
        "../scripts/images.py"
