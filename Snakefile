"""The study of adversarial robustness and generalization, from fonts to figures and verdicts."""

from snakemake.utils import min_version

min_version("9.5")


# A study is one complete file: --configfile replaces the demo and is not merged into it.
if not workflow.overwrite_configfiles:

    configfile: f"{workflow.basedir}/config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/environment.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/closing.smk"
include: "workflow/rules/fonts.smk"
include: "workflow/rules/datasets.smk"
include: "workflow/rules/manifolds.smk"
include: "workflow/rules/quality.smk"
include: "workflow/rules/classifiers.smk"
include: "workflow/rules/attacks.smk"
include: "workflow/rules/distances.smk"
include: "workflow/rules/radii.smk"
include: "workflow/rules/transfer.smk"
include: "workflow/rules/checks.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/cache.smk"


rule all:
    default_target: True
    input:
        record=rules.record.output.study,
        claims=rules.claims.output.claims,
        verdicts=rules.claims.output.verdicts,
        over_seeds=rules.over_seeds.output.over_seeds,
        figures=FIGURES,
