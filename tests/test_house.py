"""The files of the project agree with one another."""

import ast
import pkgutil
import re
import tomllib
from typing import get_args

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from robustgen.attacks.losses import LOSSES
from robustgen.attacks.spaces import SPACES
from robustgen.attacks.step_rules import STEP_RULES
from robustgen.config import blocks as settings
from robustgen.config import datasets as data_settings
from robustgen.config import manifolds as manifold_settings
from robustgen.data.sources import PUBLIC_READERS, USER_READERS
from robustgen.models.architectures import ARCHITECTURES
from robustgen.specs import NORMS, PARAMETER_RANGES, SearchConfig, TrainConfig, VaeGanConfig

SOURCE = ROOT / "src/robustgen"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {
    name: [Requirement(text) for text in texts]
    for name, texts in PROJECT["optional-dependencies"].items()
}
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)


def test_constraints_pin_every_dependency_within_its_range():
    for requirement in [*BASE, *(r for extra in EXTRAS.values() for r in extra)]:
        pinned = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pinned), requirement


def test_environment_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert f"python{PROJECT['requires-python']}" in environment["dependencies"]
    (pip,) = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    assert "--constraint constraints.txt" in pip
    assert "--editable ." in pip
    requirements = [Requirement(text) for text in pip if not text.startswith("--")]
    ranges = {requirement.name: requirement.specifier for requirement in BASE}
    for requirement in requirements:
        assert requirement.specifier == ranges[requirement.name], requirement
    main_packages = {"snakemake", "torch", "torchvision", "numpy", "pandas", "pyarrow", "seaborn"}
    assert main_packages <= {requirement.name for requirement in requirements}


def test_versions_agree():
    text = (ROOT / "src/robustgen/__init__.py").read_text()
    version = re.search(r'^__version__ = "(.+)"$', text, re.M)[1]
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()


MAX_LINES = {"Snakefile": 60, "workflow/rules/*.smk": 150, "workflow/scripts/*.py": 60}


@pytest.mark.parametrize(("pattern", "max_lines"), MAX_LINES.items(), ids=MAX_LINES.keys())
def test_files_of_the_workflow_are_short(pattern, max_lines):
    for path in ROOT.glob(pattern):
        assert len(path.read_text().splitlines()) < max_lines, path


def test_every_rule_has_its_directives_and_its_script_checks_the_code():
    for path in ROOT.glob("workflow/rules/*.smk"):
        for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", path.read_text(), re.M):
            for text in ("output:", "log:", "benchmark:", "threads: 1", "mem_mb=", "runtime="):
                assert text in body, f"{name} lacks {text}"
            script = (ROOT / f"workflow/scripts/{name}.py").read_text()
            assert "run_job(snakemake.log[0], snakemake)" in script, name
            has_code = "params:" in body and re.search(rf'code_fingerprint\(\s*"{name}"', body)
            assert has_code, f"{name} lacks the fingerprint of its code"
            for block in re.findall(r"^    (?:input|output):\n((?:        .*\n)+)", body, re.M):
                for line in re.findall(r"^        (\S.*)$", block, re.M):
                    assert re.match(r"\w+=|\*\*|[)\]]", line), f"{name}: {line} has no name"


def test_the_readme_names_existing_files_and_targets():
    text = (ROOT / "README.md").read_text()
    assert "DEMO_" not in text
    for target in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (ROOT / target).exists(), target
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"`make ([\w-]+)`", text)) <= set(targets)


def find_names() -> set[str]:
    """Return the names of all modules, definitions, arguments and attributes of the library."""
    names = set()
    for path in SOURCE.rglob("*.py"):
        names |= {path.stem, path.parent.name}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name):
                names.add(node.id)
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
    return names


LIBRARIES = {
    **{name: name for name in ("numpy", "pyarrow", "scipy", "torch")},
    "F": "torch.nn.functional",
}
"""Libraries that docstrings name, by their name in modules."""


def test_docstrings_name_existing_things():
    """A dotted name belongs to a library, or all its parts are names of this package."""
    names = find_names()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                continue
            for dotted in re.findall(r"`([A-Za-z_]\w*(?:\.\w+)+)`", ast.get_docstring(node) or ""):
                head, *rest = dotted.split(".")
                if head in LIBRARIES:
                    assert pkgutil.resolve_name(".".join([LIBRARIES[head], *rest]))
                else:
                    assert {head, *rest} <= names, f"{path}: {dotted}"


REGISTRIES = {
    "space": (settings.Threat, "space", SPACES),
    "norm": (settings.Threat, "norm", NORMS),
    "loss of a method": (settings.Method, "loss", LOSSES),
    "loss of an attack": (settings.Attack, "loss", LOSSES),
    "step rule of a method": (settings.Method, "step_rule", STEP_RULES),
    "step rule of an attack": (settings.Attack, "step_rule", STEP_RULES),
    "architecture": (settings.Classifier, "architecture", ARCHITECTURES),
    "transformations of fonts": (data_settings.Fonts, "transformations", PARAMETER_RANGES),
    "transformations of images": (data_settings.ImageDataset, "transformations", PARAMETER_RANGES),
}


@pytest.mark.parametrize(("block", "key", "registry"), REGISTRIES.values(), ids=REGISTRIES.keys())
def test_a_config_accepts_exactly_the_registered_names(block, key, registry):
    assert set(get_args(block.model_fields[key].annotation)) == set(registry)


def test_every_kind_of_data_set_has_its_reader():
    assert set(data_settings.KINDS) == {"fonts", *USER_READERS, *PUBLIC_READERS}
    for kind, reader in data_settings.KINDS.items():
        assert get_args(reader.model_fields["kind"].annotation) == (kind,)


def test_default_blocks_are_the_default_dataclasses():
    """A config block without keys and a dataclass without arguments have the same values."""
    recipe = manifold_settings.Manifold().model_dump(exclude={"betas", "images", "judge"})
    assert VaeGanConfig.from_mapping(recipe) == VaeGanConfig()
    assert TrainConfig.from_params(settings.Classifier().model_dump()) == TrainConfig()
    assert settings.Attack(threat="regular").to_search() == SearchConfig()


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_names_that_exist(path):
    """No test runs the benchmarks, which take minutes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("robustgen"):
            exec(ast.unparse(node), {})
