"""What studies share with --cache: data sets, VAE-GANs and their judges.

Snakemake's cache knows a job by its params and those of the jobs before it, not by its wildcards:
what a job goes by must be among its params.
"""


def require_cache():
    """Stop if there is no folder to share."""
    folder = os.environ.get("SNAKEMAKE_OUTPUT_CACHE", "")
    if workflow.storage_settings.default_storage_provider is None:  # else it is a bucket's
        if not Path(folder or "/nowhere").is_dir():
            raise UserError(
                f"--cache needs a folder: SNAKEMAKE_OUTPUT_CACHE is {folder or 'not set'}, "
                "but must name one that exists"
            )
        require_writable(folder, "set another SNAKEMAKE_OUTPUT_CACHE")


# Snakemake takes no rule that is cached and has a benchmark, since what is fetched takes no time,
# and has no way to state one but not the other.
if CACHING:
    with one_sentence():
        require_cache()
    for shared in (rule for rule in workflow.rules if rule.cache.output):
        shared._benchmark = None
