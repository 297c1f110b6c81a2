"""The documentation: the names on its pages exist, and its configs and examples run."""

import importlib.util
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import ROOT, SCHEDULE, copy_project, make_generators, replace_text, snakemake
from pages import DOCS, PAGES, Block, read_block, read_blocks
from PIL import Image

from robustgen import specs
from robustgen.analysis import evidence
from robustgen.analysis.robustness_checks import ALL_CHECKS
from robustgen.attacks import losses, spaces, step_rules
from robustgen.attacks.search import run_search
from robustgen.config import datasets as dataset_settings
from robustgen.config.blocks import Settings
from robustgen.config.job_params import images_params
from robustgen.config.study import Study
from robustgen.data import sources, user_images
from robustgen.io import schemas
from robustgen.models import architectures
from robustgen.models.cohort import Cohort
from robustgen.sampling import make_generator
from robustgen.specs import PARAMETER_RANGES, SearchConfig, Threat
from robustgen.training.classifiers import train


def load_module(path: Path) -> Any:
    """Return a Python file outside of a package as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = load_module(DOCS / "hooks.py")
MARKERS = [match for page in PAGES for match in HOOKS.MARKER.findall(page.read_text("utf-8"))]
"""Names and arguments of the comments that the website replaces by generated tables."""
SCHEMAS = [name for name, value in vars(schemas).items() if isinstance(value, pa.Schema)]


def find_subclasses() -> Iterator[type[Settings]]:
    """Yield every class of a mapping in a config, also those that other tests define."""
    queue: list[type[Settings]] = [Settings]
    while queue:
        model = queue.pop()
        queue += model.__subclasses__()
        if model is not Settings:
            yield model


BLOCKS = [model for model in find_subclasses() if model.__module__.startswith("robustgen.")]


@pytest.mark.parametrize("model", BLOCKS, ids=lambda model: model.__name__)
def test_every_key_of_a_config_is_described(model: type[Settings]) -> None:
    for key, field in model.model_fields.items():
        assert field.description, f"{key} has no docstring"
        assert field.description.strip().endswith("."), key


def test_every_block_of_a_config_has_a_table() -> None:
    block_names = {arguments.strip() for name, arguments in MARKERS if name == "settings"}
    assert block_names == set(HOOKS.BLOCKS)
    assert ("kinds", "") in MARKERS
    models = {model for model in BLOCKS if model.__name__ in HOOKS.BLOCKS}
    models |= set(dataset_settings.KINDS.values())
    bases = {base for model in models for base in model.__mro__}
    assert set(BLOCKS) <= bases


def test_a_default_that_depends_on_the_study_is_described_in_words() -> None:
    table = HOOKS.settings_table("Distances")
    assert "| `methods` | a list | the methods without a threat; all methods if each has" in table
    assert "| `epochs` |" in HOOKS.settings_table("Judge")
    assert "`classifier.epochs`" in HOOKS.settings_table("Judge")


def test_every_check_of_success_rates_is_documented() -> None:
    assert ("checks", "") in MARKERS
    table = HOOKS.checks_table()
    assert "| strong gain | success rate of the ensemble of the same threat minus" in table
    assert table.count("\n|") >= len(ALL_CHECKS)


def test_every_schema_has_a_table_of_columns() -> None:
    schema_names = {arguments.strip() for name, arguments in MARKERS if name == "columns"}
    assert schema_names == set(SCHEMAS)
    assert "| `success_rate` | float64 | share |" in HOOKS.columns_table("SUCCESS_RATES")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_marker_of_a_page_is_replaced(page: Path) -> None:
    text = HOOKS.on_page_markdown(page.read_text("utf-8"))
    text_without_code = re.sub(r"`[^`]*`", "", text)
    assert "<!-- generated" not in text_without_code


def test_the_picture_of_the_stages_is_up_to_date() -> None:
    drawing = load_module(DOCS / "draw_stages.py")
    assert drawing.PICTURE.read_text("utf-8") == drawing.draw()


def test_documented_limits_of_evidence_equal_those_of_the_code() -> None:
    data_page = (DOCS / "own-data.md").read_text("utf-8")
    assert (
        f"\n- {evidence.MIN_JUDGE_ACCURACY:.0%} of the test images,".replace("%", " %") in data_page
    )
    assert data_page.count(f"\n- {evidence.MIN_AGREEMENT:.0%} of ".replace("%", " %")) == 2
    claims_page = (DOCS / "figures-and-claims.md").read_text("utf-8")
    assert f"more than {evidence.SATURATED_RATE:.0%} of".replace("%", " %") in claims_page


def test_documented_ranges_of_transformations_equal_those_of_the_code() -> None:
    text = (DOCS / "configuration.md").read_text("utf-8")
    for name, (lower, (shift, _, shear, _, scale, rotation)) in PARAMETER_RANGES.items():
        row = f"| `{name}` | ±{shift:g} | ±{shear:g} | {lower[4]:g} to {scale:g} "
        assert f"{row}| ±π/{round(np.pi / rotation)} |" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_and_paths_on_a_page_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"(?:`|^)make ([\w-]+)", text, re.M)) <= set(targets)
    project_path = r"(?:config|profiles|benchmarks|docs|workflow|src|tests)/[\w./-]+\w"
    example_files = {
        "src/robustgen/models/architectures.py",
        "src/robustgen/figures/learning_curves.py",
        "workflow/scripts/learning_curves.py",
        "workflow/report/learning_curves.rst",
    }
    for name in set(re.findall(rf"`({project_path})`", text)) - example_files:
        assert (ROOT / name).exists(), name


def test_pages_name_functions_that_exist() -> None:
    """Code of the form "`Space.project` in `src/robustgen/attacks/spaces.py`" on any page."""
    reference = re.compile(r"`([\w.]+)` (?:in|of) `(src/robustgen/[\w/]+\.py)`")
    references = [r for page in PAGES for r in reference.findall(page.read_text("utf-8"))]
    assert len(references) > 10
    for name, path in references:
        module = path.removeprefix("src/").removesuffix(".py").replace("/", ".")
        pkgutil.resolve_name(f"{module}:{name}")


@pytest.fixture(scope="module")
def folder_of_user_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small files of the names that the configs on the pages contain."""
    tmp_path = tmp_path_factory.mktemp("user")
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number, pixels in enumerate(rng.integers(0, 256, (320, 8, 8), np.uint8)):
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    pixels = rng.integers(0, 256, (640, 8, 8), np.uint8)
    (tmp_path / "my_fonts").mkdir()
    np.savez(tmp_path / "photos.npz", images=pixels, labels=np.arange(640) % 2)
    table = np.column_stack([np.arange(160) % 2, rng.integers(0, 256, (160, 64))])
    np.savetxt(tmp_path / "digits.txt", table, "%d")
    return tmp_path


@pytest.fixture
def user_files(folder_of_user_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of user files, which is the working directory during the test."""
    monkeypatch.chdir(folder_of_user_files)
    return folder_of_user_files


@pytest.fixture
def registries() -> Iterator[None]:
    """Restore all registries after a test that registers an extension."""
    with (
        patch.dict(dataset_settings.KINDS),
        patch.dict(sources.USER_READERS),
        patch.dict(architectures.ARCHITECTURES),
        patch.dict(spaces.SPACES),
        patch.dict(losses.LOSSES),
        patch.dict(step_rules.STEP_RULES),
    ):
        yield
    Study.model_rebuild(force=True)


def execute(module: Any, text: str) -> dict[str, Any]:
    """Run a block with the names of a module; return all names that are then defined."""
    names = dict(vars(module))
    exec(compile(text, "<a page of the documentation>", "exec"), names)
    return names


def register_rows() -> None:
    """Register the kind of data set `rows` as the page describes."""
    page = "extending.md"
    execute(dataset_settings, read_block(page, "src/robustgen/config/datasets.py"))
    names = execute(user_images, read_block(page, "src/robustgen/data/user_images.py"))
    sources.USER_READERS["rows"] = names["read_rows"]
    Study.model_rebuild(force=True)


def merge(config: dict[str, Any], addition: dict[str, Any]) -> dict[str, Any]:
    """Return two configs, merged as Snakemake merges several config files."""
    merged = dict(config)
    for key, value in addition.items():
        old_value = merged.get(key)
        is_nested = isinstance(old_value, dict) and isinstance(value, dict)
        merged[key] = merge(old_value, value) if is_nested else value
    return merged


def read_configs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a name and a config for every YAML block of the pages.

    A block without the key `study` is merged into the last complete config of its page.
    """
    for page in PAGES:
        config: dict[str, Any] = {}
        for number, example in enumerate(read_blocks(page.name, "yaml")):
            if is_profile(example):
                continue
            content = yaml.safe_load(example.text)
            config = content if "study" in content else merge(config, content)
            yield f"{page.stem} {number} {example.title}".strip(), config


def is_profile(example: Block) -> bool:
    """Whether a block is a profile of Snakemake and no config of a study."""
    return example.title.startswith("profiles/")


@pytest.mark.usefixtures("user_files", "registries")
@pytest.mark.parametrize("config", dict(read_configs()).values(), ids=dict(read_configs()))
def test_documented_configs_are_valid(config: dict[str, Any]) -> None:
    register_rows()
    study = Study.parse(config)
    assert study.study == config["study"]
    for search in (*study.methods.values(), *study.attacks.values()):
        radius = study.threats[search.threat].radius if search.threat is not None else None
        if radius is not None and search.steps:
            assert search.steps * search.step_size >= 2 * radius


def test_the_pages_for_users_have_configs() -> None:
    names = [name for name, _ in read_configs()]
    assert sum(name.startswith("own-data") for name in names) >= 4
    assert sum(name.startswith("own-methods") for name in names) >= 4
    assert sum(name.startswith("extending") for name in names) >= 1


def test_the_documented_attacks_on_a_first_model_run(study, monkeypatch, capsys) -> None:
    monkeypatch.chdir(study)
    names: dict[str, Any] = {}
    exec(read_block("quickstart.md", "first_model.py"), names)
    exec(read_block("api.md", "learned_manifold.py"), names)
    exec(read_block("quickstart.md", "own_model.py"), {})
    output = capsys.readouterr().out
    assert re.search(r"adversarial images: \(100, 3, 8, 8\)\n", output)
    assert re.search(r"test error of the first model: 0\.\d{3}\n", output)
    assert re.search(r"successes: \d+ of \d+\n", output)
    assert re.search(r"successes on the learned manifold: \d+ of \d+\n", output)


def test_the_documented_way_to_read_a_table_works(study, monkeypatch, capsys) -> None:
    monkeypatch.chdir(study)
    (example,) = read_blocks("results.md", "python")
    exec(example.text, {})
    assert capsys.readouterr().out == "successes / attacked\n"


@pytest.mark.usefixtures("registries")
def test_the_documented_step_rule_attacks(trained: Cohort, test_images) -> None:
    names = execute(step_rules, read_block("extending.md", "src/robustgen/attacks/step_rules.py"))
    assert step_rules.STEP_RULES["momentum"] is names["Momentum"]
    batch = test_images.select(slice(40)).expand(3)
    generators = [make_generator(0, "a page", seed) for seed in range(3)]
    threat, search = Threat("image", "linf", 0.3), SearchConfig("momentum", 0.05, 12)
    space = spaces.SPACES["image"](batch)
    result = run_search(
        trained, space, batch.labels, threat, search, generators, stop_at_success=True
    )
    assert result.success.float().mean() > 0.5
    assert (result.codes - space.clean_codes).abs().max() <= 0.3 + 1e-5


@pytest.mark.usefixtures("registries")
def test_the_documented_space_raises_the_loss_within_its_bounds(
    trained: Cohort, test_images
) -> None:
    execute(spaces, read_block("extending.md", "src/robustgen/attacks/spaces.py"))
    batch = test_images.select(slice(40)).expand(3)
    space = spaces.SPACES["contrast"](batch)
    torch.testing.assert_close(space.decode(space.clean_codes), batch.images())
    threat, losses = Threat("contrast", "linf", 0.4), []
    for steps in (0, 10):
        generators = [make_generator(0, "a page", seed) for seed in range(3)]
        search = SearchConfig("adam", 0.1, steps)
        result = run_search(
            trained, space, batch.labels, threat, search, generators, stop_at_success=False
        )
        assert (result.codes >= space.lower).all()
        assert (result.codes <= space.upper).all()
        losses.append(result.loss.mean())
    assert losses[1] > losses[0]


@pytest.mark.usefixtures("registries")
def test_the_documented_architecture_is_trained_as_a_cohort(training_images) -> None:
    execute(architectures, read_block("extending.md", "src/robustgen/models/architectures.py"))
    cohort = Cohort("mlp", (1, 28, 28), 4, [0, 1])
    cohort.initialize([make_generator(0, "initialization", seed) for seed in (0, 1)])
    curves = train(cohort, training_images, SCHEDULE, None, make_generators([0, 1]))
    assert curves["error_clean"][-1] < curves["error_clean"][0]
    batch = training_images.select(slice(5)).expand(2).images()
    expected = torch.stack([cohort.member(i)(batch[i]) for i in range(2)])
    torch.testing.assert_close(cohort(batch), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("registries")
def test_the_documented_kind_of_data_set_is_read(user_files: Path) -> None:
    register_rows()
    study = Study.parse(yaml.safe_load(read_block("extending.md", "rows.yaml")))
    data = study.datasets["digits"]
    assert (data.classes, data.train_examples, data.test_examples) == (2, 128, 32)
    assert data.shape == (1, 8, 8)
    old_signature = data.signature()
    images, examples = sources.collect(
        **images_params(study, "digits"), path="digits.txt", downloads={}
    )
    assert images.shape == (160, 1, 8, 8)
    assert examples.num_rows == 160
    with (user_files / "digits.txt").open("a") as file:
        file.write(" ")
    assert data.signature() != old_signature


@pytest.mark.usefixtures("registries")
def test_the_documented_loss_attacks(trained: Cohort, test_images) -> None:
    execute(losses, read_block("extending.md", "src/robustgen/attacks/losses.py"))
    batch = test_images.select(slice(40)).expand(3)
    logits = trained(batch.images()).detach().requires_grad_()
    loss, grad_logits = losses.LOSSES["error_probability"](logits, batch.labels, batch.labels)
    torch.testing.assert_close(
        1 - loss, F.cross_entropy(logits.movedim(-1, 1), batch.labels, reduction="none").neg().exp()
    )
    (expected,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(grad_logits, expected)
    result = run_search(
        trained,
        spaces.SPACES["image"](batch),
        batch.labels,
        Threat("image", "linf", 0.3),
        SearchConfig("signed", 0.05, 12, loss="error_probability"),
        [make_generator(0, "a page", seed) for seed in range(3)],
        stop_at_success=True,
    )
    assert result.success.float().mean() > 0.5


@pytest.mark.slow
def test_the_documented_figure_is_drawn_and_no_other_job_runs(study: Path, tmp_path: Path) -> None:
    project, folder = copy_project(tmp_path / "project"), tmp_path / "work"
    shutil.copytree(study, folder, symlinks=True)
    for path in ("src/robustgen/figures/learning_curves.py", "workflow/scripts/learning_curves.py"):
        (project / path).write_text(read_block("extending.md", path))
    (project / "workflow/report/learning_curves.rst").write_text(
        read_block("extending.md", "workflow/report/learning_curves.rst")
    )
    with (project / "workflow/rules/figures.smk").open("a") as rules:
        rules.write("\n\n" + read_block("extending.md", "workflow/rules/figures.smk"))
    run = snakemake(folder, "--cores", "1", project=project)
    assert run.returncode == 0, run.stderr[-3000:]
    finished = re.findall(r"^(?:local)?rule (\w+):", run.stdout + run.stderr, re.M)
    assert sorted(set(finished)) == ["all", "learning_curves"], run.stderr[-3000:]
    width, height = Image.open(folder / "results/smoke/figures/learning_curves.png").size
    assert width > 300
    assert height > 200


def append(path: Path, text: str) -> None:
    """Append a block of the page to a file, or write it to a new one."""
    with path.open("a", encoding="utf-8") as file:
        file.write("\n\n" + text if path.stat().st_size else text)


@pytest.mark.long
def test_the_documented_extensions_break_no_test(tmp_path: Path) -> None:
    """The tests about spaces, losses, step rules and configs, in a copy with all extensions."""
    project = copy_project(tmp_path / "project")
    for name in ("tests", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, project / name)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, project)
    source = project / "src/robustgen"
    for module in (
        "attacks/spaces",
        "attacks/losses",
        "attacks/step_rules",
        "models/architectures",
    ):
        path = f"src/robustgen/{module}.py"
        append(project / path, read_block("extending.md", path))
    specs_file = source / "specs.py"
    replace_text(specs_file, '    "data_manifold",\n]', '    "data_manifold",\n    "contrast",\n]')
    for old_name, name in (
        ('"targeted_dlr"]', "error_probability"),
        ('"random"]', "momentum"),
        ('"convnet"]', "mlp"),
    ):
        replace_text(specs_file, old_name, f'{old_name[:-1]}, "{name}"]')
    row = "| `normalized` |"
    replace_text(project / "docs/configuration.md", row, f"| `momentum` | a step |\n{row}")
    row = "| `margin` |"
    new_row = "| `error_probability` | the probability of the other classes |"
    replace_text(project / "docs/configuration.md", row, f"{new_row}\n{row}")
    run = partial(subprocess.run, cwd=project, capture_output=True, text=True)
    env = {**os.environ, "PYTHONPATH": str(project / "src")}
    env.pop("ROBUSTGEN_TEST_STUDY", None)  # the extended code must also run a study
    schema = run([sys.executable, "-m", "robustgen.config.schema"], env=env, check=True).stdout
    (project / "config/schema.json").write_text(schema, encoding="utf-8")
    names = ("spaces", "step_rules", "losses", "search", "evaluation", "cohort", "house", "schema")
    names += ("study_mistakes", "study", "plan", "radii", "front_door", "wrong_arguments")
    files = [f"tests/test_{name}.py" for name in names]
    result = run([sys.executable, "-m", "pytest", "-q", *files], env=env)
    assert result.returncode == 0, result.stdout[-5000:]


def test_the_documented_members_are_those_of_the_library() -> None:
    page = (DOCS / "configuration.md").read_text("utf-8")
    for name, member in specs.MEMBERS.items():
        row = f"| `{name}` | `{member.step_rule}` | `{member.loss}` | {member.steps} | "
        assert f"{row}{member.restarts} |" in page


def test_the_documented_losses_and_step_rules_are_those_of_the_library() -> None:
    page = (DOCS / "configuration.md").read_text("utf-8")
    names = [*get_args(specs.LossName), *get_args(specs.StepRuleName)]
    assert [name for name in names if f"| `{name}` | " not in page] == []
