"""The paper's figures 1 to 4 and a sheet of all prototypes, captioned in the report."""

from itertools import chain

from robustgen.config.roles import attacks_caption, find_on_manifold, find_roles, threat_caption

ROLES = find_roles(STUDY)
ON_MANIFOLD = {
    name: [of["attack"] for of in find_on_manifold(STUDY, name) if of["attack"]]
    for name in STUDY.datasets
}


def shown_method(dataset):
    """The method whose models figures show one attack on, or several."""
    return ROLES["normal"] or STUDY.methods_of(dataset)[0]


def shown_attacks(dataset):
    """The attacks that figure 1 shows: the first regular one, and one on each manifold."""
    return [*ROLES["regular_attacks"][:1], *ON_MANIFOLD[dataset]]


def shown(pattern):
    """An input function: the files of `pattern` that figure 1 shows, one per attack."""

    def files(w):
        of = {
            "method": shown_method(w.dataset),
            "n": max(STUDY.sizes),
            "cohort": COHORTS[0],
        }
        attacks = shown_attacks(w.dataset)
        return expand(f"{RESULTS}/{pattern}", dataset=w.dataset, attack=attacks, **of)

    return files


rule figure1:
    input:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        rows=shown("{dataset}/attacks/{attack}/{method}/n{n}/{cohort}.parquet"),
        found=shown("{dataset}/attacks/{attack}/{method}/n{n}/{cohort}.safetensors"),
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
        attacks=lambda w: shown_attacks(w.dataset),
        of=lambda w: f"{shown_method(w.dataset)} training with {max(STUDY.sizes)} images",
        attacks_are=lambda w: attacks_caption(STUDY, shown_attacks(w.dataset)),
        code=code_of("figure1"),
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
        code=code_of("figure2"),
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
        on_manifold_attacks=ON_MANIFOLD,
        attacks_are=attacks_caption(STUDY, dict.fromkeys(chain(*ON_MANIFOLD.values()))),
        code=code_of("figure3"),
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
        drawn={
            "regular_attacks": {
                name: threat_caption(STUDY, name) for name in ROLES["regular_attacks"]
            },
            **{role: ROLES[role] for role in ("normal", "adversarial", "not_adversarial")},
        },
        attacks_are=attacks_caption(STUDY, ROLES["regular_attacks"]),
        code=code_of("figure4"),
    script:
        "../scripts/figure4.py"


FIGURES = [
    *expand(rules.prototype_sheet.output, dataset=FONTS),
    *SHEETS,
    *expand(rules.figure1.output, dataset=filter(shown_attacks, STUDY.datasets)),
    *rules.figure2.output,
    *rules.figure3.output,
    *rules.figure4.output,
]
