"""Transfer: adversarial examples of each model, tried on the models of other seeds and methods."""

TRANSFERRED_ATTACKS = {
    name: [attack for attack in STUDY.attacks_of(name) if attack not in MINIMAL_ATTACKS[name]]
    for name in STUDY.datasets
}
TRANSFER_KEYS = [{"dataset": name, "n": n} for name in STUDY.datasets for n in STUDY.sizes]


def all_cohorts(pattern):
    """Return an input function: the files of `pattern` of all methods and cohorts of an N.

    A pattern with the wildcard attack has a file for each attack with a radius.
    """

    def files(wildcards):
        return expand(
            f"{RESULTS}/{{dataset}}/{pattern}",
            dataset=wildcards.dataset,
            n=wildcards.n,
            attack=TRANSFERRED_ATTACKS[wildcards.dataset],
            method=STUDY.methods_of(wildcards.dataset),
            cohort=COHORTS,
        )

    return files


def cohort_keys(dataset, **names):
    """Return the keys of each file of `all_cohorts`, without data set, N and cohort."""
    values = {**names, "method": STUDY.methods_of(dataset)}
    combinations = product(*values.values(), COHORTS)
    return [dict(zip(values, combination)) for combination in combinations]


rule transfer:
    input:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        cohorts=all_cohorts("classifiers/{method}/n{n}/{cohort}.safetensors"),
        predictions=all_cohorts("classifiers/{method}/n{n}/{cohort}.predictions.parquet"),
        attack_tables=all_cohorts("attacks/{attack}/{method}/n{n}/{cohort}.parquet"),
        adversarial_examples=all_cohorts("attacks/{attack}/{method}/n{n}/{cohort}.safetensors"),
    output:
        transfers=f"{RESULTS}/{{dataset}}/transfer/n{{n}}.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/transfer/n{{n}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/transfer/n{{n}}.tsv"
    threads: 1
    resources:
        mem_mb=memory_mb(3000),
        runtime=60,
    params:
        target_keys=lambda wildcards: cohort_keys(wildcards.dataset),
        source_keys=lambda wildcards: cohort_keys(
            wildcards.dataset, attack=TRANSFERRED_ATTACKS[wildcards.dataset]
        ),
        code=code_fingerprint("transfer", SEARCH_MODULES + VAEGAN_MODULES),
    script:
        "../scripts/transfer.py"


rule all_transfers:
    input:
        parts=[rules.transfer.output.transfers.format(**keys) for keys in TRANSFER_KEYS],
    output:
        transfers=f"{RESULTS}/tables/transfers.parquet",
    log:
        f"{RESULTS}/logs/tables/transfers.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables/transfers.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        part_keys=TRANSFER_KEYS,
        code=code_fingerprint("all_transfers"),
    script:
        "../scripts/all_transfers.py"


rule figure6:
    input:
        transfers=rules.all_transfers.output.transfers,
    output:
        **figure("figure6"),
    log:
        f"{RESULTS}/logs/figures/figure6.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/figure6.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        attacks=TRANSFERRED_ATTACKS,
        code=code_fingerprint("figure6"),
    script:
        "../scripts/figure6.py"
