"""The files by which the project is deployed, checked and published."""

import re

import pytest
import yaml
from conftest import ROOT, count_planned_jobs, snakemake

from robustgen.config.study import Study

MODULE = """
configfile: "{config}"

module robustgen:
    snakefile: "{project}/workflow/Snakefile"
    config: config

use rule * from robustgen
"""


@pytest.mark.slow
def test_the_workflow_runs_as_a_module_in_an_empty_folder(tmp_path):
    """The default target is the whole study; all other rules are those of a clone."""
    (tmp_path / "workflow").mkdir()
    snakefile = tmp_path / "workflow/Snakefile"
    snakefile.write_text(MODULE.format(config=ROOT / "config/smoke.yaml", project=ROOT))
    run = snakemake(tmp_path, "-n", "--snakefile", snakefile)
    jobs = count_planned_jobs(run)
    assert jobs.pop("all_results") == 1
    clone = count_planned_jobs(snakemake(tmp_path, "-n"))
    assert clone.pop("all") == 1
    assert jobs == clone


def test_the_catalog_finds_the_files_that_it_requires():
    """Of https://snakemake.github.io/snakemake-workflow-catalog: standardized usage."""
    catalog = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())
    assert catalog["usage"]["report"] is True
    assert set(catalog["usage"]["software-stack-deployment"].values()) == {False}
    assert (ROOT / "workflow/Snakefile").exists()
    assert (ROOT / "config/README.md").exists()


def test_every_config_is_described():
    text = (ROOT / "config/README.md").read_text()
    described = set(re.findall(r"^\| `(\w+\.yaml)` \|", text, re.M))
    assert described == {path.name for path in (ROOT / "config").glob("*.yaml")}


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.name)
def test_every_config_is_valid(path):
    Study.parse(yaml.safe_load(path.read_text()))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1200


def test_github_workflows_call_existing_targets():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    (workflow,) = (ROOT / ".github/workflows").glob("*.yml")
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    assert set(jobs["check"]["strategy"]["matrix"]["target"]) <= targets
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    for command in commands:
        program, target = command.split(" ", 1)
        assert program == "make" or (ROOT / program).exists()
        assert target in targets or target == "${{ matrix.target }}"
