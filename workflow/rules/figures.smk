"""The paper's figures 1 to 4, captioned in the report, and a list of all figures."""

from itertools import chain

from robustgen.config.roles import attacks_caption, find_on_manifold, find_roles

ROLES = find_roles(STUDY)
ON_MANIFOLD_ATTACKS = {
    name: [row["attack"] for row in find_on_manifold(STUDY, name) if row["attack"]]
    for name in STUDY.datasets
}


def figure_method(dataset):
    """Return the method whose models figure 1 shows."""
    return ROLES["normal"] or STUDY.methods_of(dataset)[0]


def figure_attacks(dataset):
    """Return the attacks of figure 1: the first regular one, and one on each manifold."""
    return [*filter(None, [ROLES["regular_attack"]]), *ON_MANIFOLD_ATTACKS[dataset]]


def figure_files(pattern):
    """Return an input function: the files of `pattern` for figure 1, one for each attack."""

    def files(wildcards):
        return expand(
            f"{RESULTS}/{pattern}",
            dataset=wildcards.dataset,
            attack=figure_attacks(wildcards.dataset),
            method=figure_method(wildcards.dataset),
            n=max(STUDY.sizes),
            cohort=COHORTS[0],
        )

    return files


rule figure1:
    input:
        images=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        attack_tables=figure_files("{dataset}/attacks/{attack}/{method}/n{n}/{cohort}.parquet"),
        adversarial_examples=figure_files(
            "{dataset}/attacks/{attack}/{method}/n{n}/{cohort}.safetensors"
        ),
    output:
        **figure("figure1", "{dataset}/figures", dataset="{dataset}"),
    log:
        f"{RESULTS}/logs/{{dataset}}/figure1.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/figure1.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        attacks=lambda wildcards: figure_attacks(wildcards.dataset),
        models_caption=lambda wildcards: (
            f"{figure_method(wildcards.dataset)} training with {max(STUDY.sizes)} images"
        ),
        attacks_caption=lambda wildcards: attacks_caption(STUDY, figure_attacks(wildcards.dataset)),
        code=code_fingerprint("figure1"),
    script:
        "../scripts/figure1.py"


rule figure2:
    input:
        distances=rules.all_distances.output.distances,
    output:
        **figure("figure2"),
    log:
        f"{RESULTS}/logs/figures/figure2.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/figure2.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        method=ROLES["normal"],
        code=code_fingerprint("figure2"),
    script:
        "../scripts/figure2.py"


rule figure3:
    input:
        errors=rules.errors.output.errors,
        success_rates=rules.success_rates.output.success_rates,
    output:
        **figure("figure3"),
    log:
        f"{RESULTS}/logs/figures/figure3.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/figure3.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        on_manifold_attacks=ON_MANIFOLD_ATTACKS,
        attacks_caption=attacks_caption(STUDY, dict.fromkeys(chain(*ON_MANIFOLD_ATTACKS.values()))),
        code=code_fingerprint("figure3"),
    script:
        "../scripts/figure3.py"


rule figure4:
    input:
        errors=rules.errors.output.errors,
        success_rates=rules.success_rates.output.success_rates,
    output:
        **figure("figure4"),
    log:
        f"{RESULTS}/logs/figures/figure4.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/figure4.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        figure_arguments={
            "regular_attacks": ROLES["regular_attacks"],
            "compared_methods": [*filter(None, [ROLES["normal"]]), *ROLES["adversarial_methods"]],
            "not_adversarial": ROLES["not_adversarial"],
        },
        attacks_caption=attacks_caption(STUDY, ROLES["regular_attacks"]),
        code=code_fingerprint("figure4"),
    script:
        "../scripts/figure4.py"


FIGURES = [
    *expand(rules.prototype_sheet.output, dataset=FONT_DATASETS),
    *SHEETS,
    *expand(rules.figure1.output, dataset=filter(figure_attacks, STUDY.datasets)),
    *rules.figure2.output,
    *rules.figure3.output,
    *rules.figure4.output,
    *(rules.figure5.output if CURVE_ATTACKS else []),
    *rules.figure6.output,
]
