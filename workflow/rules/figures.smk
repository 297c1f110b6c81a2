"""The paper's figures 1 to 4 and a sheet of all prototypes, captioned in the report."""

ROLES = STUDY.roles()
SHOWN = {
    "method": ROLES["normal"] or list(STUDY.methods)[0],
    "n": max(STUDY.sizes),
    "cohort": COHORTS[0],
}
SHOWN_ATTACKS = [a for a in (ROLES["regular_attack"], ROLES["on_manifold_attack"]) if a]


def shown(pattern):
    """The files of `pattern` that figure 1 shows, one per attack."""
    return expand(f"{RESULTS}/{pattern}", attack=SHOWN_ATTACKS, allow_missing=True, **SHOWN)


def figure(name, folder="figures", **labels):
    """Output files of a figure: a PNG with its caption for the report, and a PDF."""
    caption = REPORT / f"{name}.rst"
    png = f"{RESULTS}/{folder}/{name}.png"
    return {
        "png": report(png, caption=caption, category="Figures", labels={"figure": name, **labels}),
        "pdf": f"{RESULTS}/{folder}/{name}.pdf",
    }


rule prototype_sheet:
    input:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
    output:
        **figure("prototypes", "{dataset}/figures", dataset="{dataset}"),
    log:
        f"{RESULTS}/logs/{{dataset}}/prototype_sheet.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/prototype_sheet.tsv"
    wildcard_constraints:
        dataset=one_of(FONTS),
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        letters=lambda w: STUDY.datasets[w.dataset].letters,
        code=code_of("prototype_sheet"),
    script:
        "../scripts/prototype_sheet.py"


rule figure1:
    input:
        bank=f"{RESULTS}/{{dataset}}/dataset/images.safetensors",
        examples=f"{RESULTS}/{{dataset}}/dataset/examples.parquet",
        rows=shown("{{dataset}}/attacks/{attack}/{method}/n{n}/{cohort}.parquet"),
        found=shown("{{dataset}}/attacks/{attack}/{method}/n{n}/{cohort}.safetensors"),
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
        attacks=SHOWN_ATTACKS,
        of=f"{SHOWN['method']} training with {SHOWN['n']} images",
        attacks_are=STUDY.in_words(SHOWN_ATTACKS),
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
        method=SHOWN["method"],
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
        on_manifold_attack=ROLES["on_manifold_attack"],
        attacks_are=STUDY.in_words([a for a in [ROLES["on_manifold_attack"]] if a]),
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
            role: ROLES[role]
            for role in ("regular_attacks", "normal", "adversarial", "not_adversarial")
        },
        attacks_are=STUDY.in_words(ROLES["regular_attacks"]),
        code=code_of("figure4"),
    script:
        "../scripts/figure4.py"


FIGURES = [
    *expand(rules.prototype_sheet.output, dataset=FONTS),
    *expand(rules.figure1.output, dataset=STUDY.datasets if SHOWN_ATTACKS else []),
    *rules.figure2.output,
    *rules.figure3.output,
    *rules.figure4.output,
]
