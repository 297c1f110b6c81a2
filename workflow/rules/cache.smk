"""What studies share with --cache: data sets, VAE-GANs and their judges."""

# Snakemake's cache knows a job by its params and those of the jobs before it, not by its wildcards:
# what a job goes by must be among its params.

# Snakemake takes no rule that is cached and has a benchmark, since what is fetched takes no time,
# and has no way to state one but not the other.
if CACHING:
    for shared in ("prototypes", "codes", "images", "vaegan", "latent_codes", "judge"):
        workflow.get_rule(shared)._benchmark = None
