"""The files that studies share with --cache: data sets, VAE-GANs and their judges.

Snakemake's cache identifies a job by its params and those of the jobs before it, not by its
wildcards. All that a cached job depends on must therefore be in its params.
"""


def use_shared_folder():
    """Make the path of the cache folder absolute, and stop if the folder cannot be written.

    A relative path is taken from the working directory of Snakemake, like all paths of a study.
    Snakemake would write the relative path into symlinks, which then lead to other folders.
    """
    if workflow.storage_settings.default_storage_provider is not None:
        return  # the cache is in a bucket
    path = os.environ.get("SNAKEMAKE_OUTPUT_CACHE", "")
    folder = os.path.abspath(path)
    if not path or not os.path.isdir(folder):
        problem = f"{path}, but {folder} is no folder" if path else "not set"
        raise UserError(f"--cache needs a folder that exists: SNAKEMAKE_OUTPUT_CACHE is {problem}")
    require_writable(folder, "set another SNAKEMAKE_OUTPUT_CACHE")
    os.environ["SNAKEMAKE_OUTPUT_CACHE"] = folder


# Snakemake refuses cached rules with a benchmark, because copying from the cache takes no time, and
# it has no directive for rules that have a benchmark only without a cache.
if IS_CACHING:
    with exit_on_user_error():
        use_shared_folder()
    for cached_rule in (rule for rule in workflow.rules if rule.cache.output):
        cached_rule._benchmark = None
