"""Transfer: adversarial examples of each model, tried on the models of other seeds and methods."""

TRANSFERRED_ATTACKS = {
    name: [attack for attack in STUDY.attacks_of(name) if attack not in MINIMAL_ATTACKS[name]]
    for name in STUDY.datasets
}
TRANSFER_KEYS = [{"dataset": name, "n": n} for name in STUDY.datasets for n in STUDY.sizes]


def target_files(pattern):
    """Return an input function: the files of `pattern` of all methods and cohorts."""

    def files(wildcards):
        return expand(
            f"{RESULTS}/{{dataset}}/classifiers/{{method}}/n{{n}}/{{cohort}}{pattern}",
            dataset=wildcards.dataset,
            method=STUDY.methods_of(wildcards.dataset),
            n=wildcards.n,
            cohort=COHORTS,
        )

    return files


def source_files(suffix):
    """Return an input function: the files of all attacks on all methods and cohorts."""

    def files(wildcards):
        return expand(
            f"{RESULTS}/{{dataset}}/attacks/{{attack}}/{{method}}/n{{n}}/{{cohort}}{suffix}",
            dataset=wildcards.dataset,
            attack=TRANSFERRED_ATTACKS[wildcards.dataset],
            method=STUDY.methods_of(wildcards.dataset),
            n=wildcards.n,
            cohort=COHORTS,
        )

    return files


def source_keys(dataset):
    """Return attack and method of each of the `source_files`."""
    values = TRANSFERRED_ATTACKS[dataset], STUDY.methods_of(dataset), COHORTS
    return [{"attack": attack, "method": method} for attack, method, _ in product(*values)]


rule transfer:
    input:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        cohorts=target_files(".safetensors"),
        predictions=target_files(".predictions.parquet"),
        attack_tables=source_files(".parquet"),
        adversarial_examples=source_files(".safetensors"),
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
        methods=lambda wildcards: [
            method for method in STUDY.methods_of(wildcards.dataset) for _ in COHORTS
        ],
        source_keys=lambda wildcards: source_keys(wildcards.dataset),
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
