"""What studies share with --cache: data sets, VAE-GANs and their judges.

Snakemake's cache knows a job by its params and those of the jobs before it, not by its wildcards:
what a job goes by must be among its params.
"""


def use_shared_folder():
    """Make the folder of the cache absolute, and stop if it cannot be written.

    A relative folder is taken from the folder of the results, like all paths of a study. Snakemake
    itself would make it the target of links, where the same path means other folders.
    """
    if workflow.storage_settings.default_storage_provider is not None:
        return  # the cache is in a bucket
    variable = os.environ.get("SNAKEMAKE_OUTPUT_CACHE", "")
    folder = os.path.abspath(variable)
    if not variable or not os.path.isdir(folder):
        missing = f"{variable}, but {folder} is no folder" if variable else "not set"
        raise UserError(f"--cache needs a folder that exists: SNAKEMAKE_OUTPUT_CACHE is {missing}")
    require_writable(folder, "set another SNAKEMAKE_OUTPUT_CACHE")
    os.environ["SNAKEMAKE_OUTPUT_CACHE"] = folder


# Snakemake takes no rule that is cached and has a benchmark, since what is fetched takes no time,
# and has no way to state one but not the other.
if CACHING:
    with one_sentence():
        use_shared_folder()
    for shared in (rule for rule in workflow.rules if rule.cache.output):
        shared._benchmark = None
