"""The documentation: what it shows of the package is there, and its examples run."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from conftest import HERE, SCHEDULE, make_generators
from pages import DOCS, PAGES, Block, block, blocks
from PIL import Image

from robustgen.analysis import evidence
from robustgen.attacks import search as attack
from robustgen.attacks import spaces, step_rules
from robustgen.config import datasets as data_settings
from robustgen.config.blocks import Settings
from robustgen.config.job_params import images_params
from robustgen.config.study import Study
from robustgen.data import sources as images
from robustgen.data import user_images as own
from robustgen.data.affine import RANGES
from robustgen.io import schemas as tables
from robustgen.models import architectures as networks
from robustgen.models.cohort import Cohort
from robustgen.seeding import generator
from robustgen.specs import SearchConfig, Threat
from robustgen.training.classifiers import train


def load_module(path: Path) -> Any:
    """A Python file that is no part of a package, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = load_module(DOCS / "hooks.py")
MARKERS = [match for page in PAGES for match in HOOKS.MARKER.findall(page.read_text("utf-8"))]
SCHEMAS = [name for name, value in vars(tables).items() if isinstance(value, pa.Schema)]


def blocks_of_settings() -> Iterator[type[Settings]]:
    """Every mapping that a config may have, and those that other tests define."""
    queue: list[type[Settings]] = [Settings]
    while queue:
        model = queue.pop()
        queue += model.__subclasses__()
        if model is not Settings:
            yield model


BLOCKS = [model for model in blocks_of_settings() if model.__module__.startswith("robustgen.")]


@pytest.mark.parametrize("model", BLOCKS, ids=lambda model: model.__name__)
def test_every_key_of_a_config_has_a_meaning(model: type[Settings]) -> None:
    for key, field in model.model_fields.items():
        assert field.description, f"{key} has no docstring"
        assert field.description.strip().endswith("."), key


def test_every_block_of_a_config_is_shown() -> None:
    block_names = {arguments.strip() for name, arguments in MARKERS if name == "settings"}
    assert block_names == set(HOOKS.BLOCKS)
    assert ("kinds", "") in MARKERS
    models = {model for model in BLOCKS if model.__name__ in HOOKS.BLOCKS}
    models |= set(data_settings.KINDS.values())
    bases = {base for model in models for base in model.__mro__}
    assert set(BLOCKS) <= bases


def test_a_default_that_depends_on_the_study_is_shown_in_words() -> None:
    table = HOOKS.settings_table("Distances")
    assert "| `methods` | a list | the methods without a threat; all methods if each has" in table
    assert "| `epochs` |" in HOOKS.settings_table("Judge")
    assert "`classifier.epochs`" in HOOKS.settings_table("Judge")


def test_every_table_of_a_study_is_shown() -> None:
    schema_names = {arguments.strip() for name, arguments in MARKERS if name == "columns"}
    assert schema_names == set(SCHEMAS)
    assert "| `success_rate` | float64 | share |" in HOOKS.columns_table("SUCCESS_RATES")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_generated_is_complete(page: Path) -> None:
    text = HOOKS.on_page_markdown(page.read_text("utf-8"))
    inline = re.sub(r"`[^`]*`", "", text)
    assert "<!-- generated" not in inline


def test_the_picture_of_the_stages_is_as_drawn() -> None:
    drawing = load_module(DOCS / "draw_stages.py")
    assert drawing.PICTURE.read_text("utf-8") == drawing.draw()


def test_limits_of_evidence_are_those_of_the_code() -> None:
    data = (DOCS / "own-data.md").read_text("utf-8")
    assert f"\n- {evidence.RIGHT:.0%} of the test images,".replace("%", " %") in data
    assert data.count(f"\n- {evidence.ENOUGH:.0%} of ".replace("%", " %")) == 2
    claims = (DOCS / "figures-and-claims.md").read_text("utf-8")
    assert f"more than {evidence.CEILING:.0%} of".replace("%", " %") in claims


def test_ranges_of_transformations_are_those_of_the_code() -> None:
    text = (DOCS / "configuration.md").read_text("utf-8")
    for name, (lower, (shift, _, shear, _, scale, rotation)) in RANGES.items():
        row = f"| `{name}` | ±{shift:g} | ±{shear:g} | {lower[4]:g} to {scale:g} "
        assert f"{row}| ±π/{round(np.pi / rotation)} |" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_what_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    targets = re.findall(r"^(\w[\w-]*):", (HERE / "Makefile").read_text(), re.M)
    assert set(re.findall(r"(?:`|^)make ([\w-]+)", text, re.M)) <= set(targets)
    project_path = r"(?:config|profiles|benchmarks|docs|workflow|src|tests)/[\w./-]+\w"
    invented = {"src/robustgen/models/mlp.py"}
    for name in set(re.findall(rf"`({project_path})`", text)) - invented:
        assert (HERE / name).exists(), name


@pytest.fixture(scope="module")
def folder_of_user_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages' configs name, small."""
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
    """The working directory, which has these files."""
    monkeypatch.chdir(folder_of_user_files)
    return folder_of_user_files


@pytest.fixture
def registries() -> Iterator[None]:
    """Registries that are as before when a test has registered something."""
    with (
        patch.dict(data_settings.KINDS),
        patch.dict(images.OWN),
        patch.dict(networks.ARCHITECTURES),
        patch.dict(spaces.SPACES),
        patch.dict(step_rules.STEP_RULES),
    ):
        yield
    Study.model_rebuild(force=True)


def execute(module: Any, text: str) -> dict[str, Any]:
    """Run a block as if it stood at the end of a module; what it defines."""
    names = dict(vars(module))
    exec(compile(text, "<a page of the documentation>", "exec"), names)
    return names


def register_rows() -> None:
    """The kind of data set of the page, registered as the page says."""
    page = "own-methods.md"
    execute(data_settings, block(page, "src/robustgen/config/datasets.py"))
    images.OWN["rows"] = execute(own, block(page, "src/robustgen/data/user_images.py"))["rows"]
    Study.model_rebuild(force=True)


def merge(config: dict[str, Any], addition: dict[str, Any]) -> dict[str, Any]:
    """Two configs as Snakemake joins them: the second adds to the first."""
    merged = dict(config)
    for key, value in addition.items():
        inner = merged.get(key)
        nested = isinstance(inner, dict) and isinstance(value, dict)
        merged[key] = merge(inner, value) if nested else value
    return merged


def configs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every config of the pages: those that are whole, and these with each later block added."""
    for page in PAGES:
        config: dict[str, Any] = {}
        for number, example in enumerate(blocks(page.name, "yaml")):
            if is_profile(example):
                continue
            content = yaml.safe_load(example.text)
            config = content if "study" in content else merge(config, content)
            yield f"{page.stem} {number} {example.title}".strip(), config


def is_profile(example: Block) -> bool:
    return example.title.startswith("profiles/")


@pytest.mark.usefixtures("user_files", "registries")
@pytest.mark.parametrize("config", [c for _, c in configs()], ids=[name for name, _ in configs()])
def test_configs_are_valid(config: dict[str, Any]) -> None:
    register_rows()
    study = Study.parse(config)
    assert study.study == config["study"]
    for search in (*study.methods.values(), *study.attacks.values()):
        if search.threat is not None and search.steps:
            assert search.steps * search.step_size >= 2 * study.threats[search.threat].radius


def test_pages_have_configs_for_each_way() -> None:
    names = [name for name, _ in configs()]
    assert sum(name.startswith("own-data") for name in names) >= 4
    assert sum(name.startswith("own-methods") for name in names) >= 5


def test_the_first_model_can_be_loaded_and_attacked(study, monkeypatch, capsys) -> None:
    monkeypatch.chdir(study)
    names: dict[str, Any] = {}
    exec(block("quickstart.md", "first_model.py"), names)
    exec(block("api.md", "learned_manifold.py"), names)
    output = capsys.readouterr().out
    assert re.search(r"test error of the first model: 0\.\d{3}\n", output)
    assert re.search(r"successes: \d+ of \d+\n", output)
    assert re.search(r"successes on the learned manifold: \d+ of \d+\n", output)


def test_the_table_of_a_study_can_be_read_as_shown(study, monkeypatch, capsys) -> None:
    monkeypatch.chdir(study)
    (reading,) = blocks("results.md", "python")
    exec(reading.text, {})
    assert capsys.readouterr().out == "successes / attacked\n"


@pytest.mark.usefixtures("registries")
def test_the_step_rule_of_the_page(trained: Cohort, test_images) -> None:
    names = execute(step_rules, block("own-methods.md", "src/robustgen/attacks/step_rules.py"))
    assert step_rules.STEP_RULES["momentum"] is names["Momentum"]
    batch = test_images.take(slice(40)).expand(3)
    rngs = [generator(0, "a page", seed) for seed in range(3)]
    threat, settings = Threat("image", "linf", 0.3), SearchConfig("momentum", 0.05, 12)
    space = spaces.SPACES["image"](batch)
    result = attack.run_search(
        trained, space, batch.labels, threat, settings, rngs, stop_at_success=True
    )
    assert result.success.float().mean() > 0.5
    assert (result.codes - space.clean_codes).abs().max() <= 0.3 + 1e-5


@pytest.mark.usefixtures("registries")
def test_the_space_of_the_page(trained: Cohort, test_images) -> None:
    execute(spaces, block("own-methods.md", "src/robustgen/attacks/spaces.py"))
    batch = test_images.take(slice(40)).expand(3)
    space = spaces.SPACES["contrast"](batch)
    torch.testing.assert_close(space.decode(space.clean_codes), batch.images())
    threat, settings = Threat("contrast", "linf", 0.4), SearchConfig("adam", 0.1, 10)
    losses = []
    for steps in (0, settings.steps):
        rngs = [generator(0, "a page", s) for s in range(3)]
        search = SearchConfig("adam", 0.1, steps)
        result = attack.run_search(
            trained, space, batch.labels, threat, search, rngs, stop_at_success=False
        )
        assert (result.codes >= space.lower).all()
        assert (result.codes <= space.upper).all()
        losses.append(result.loss.mean())
    assert losses[1] > losses[0]


@pytest.mark.usefixtures("registries")
def test_the_architecture_of_the_page(training_images) -> None:
    names: dict[str, Any] = {}
    exec(block("own-methods.md", "src/robustgen/models/mlp.py"), names)
    networks.ARCHITECTURES["mlp"] = names["build"]
    cohort = Cohort("mlp", (1, 28, 28), 4, [0, 1])
    cohort.initialize([generator(0, "initialization", seed) for seed in (0, 1)])
    curves = train(cohort, training_images, SCHEDULE, None, make_generators([0, 1]))
    assert curves["error_clean"][-1] < curves["error_clean"][0]
    batch = training_images.take(slice(5)).expand(2).images()
    one_by_one = torch.stack([cohort.member(i)(batch[i]) for i in range(2)])
    torch.testing.assert_close(cohort(batch), one_by_one, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("registries")
def test_the_kind_of_data_set_of_the_page(user_files: Path) -> None:
    register_rows()
    study = Study.parse(yaml.safe_load(block("own-methods.md", "rows.yaml")))
    data = study.datasets["digits"]
    assert (data.classes, data.train_examples, data.test_examples) == (2, 128, 32)
    assert data.shape == (1, 8, 8)
    old_signature = data.signature()
    bank, examples = images.collect(
        **images_params(study, "digits"), path="digits.txt", downloads={}
    )
    assert bank.shape == (160, 1, 8, 8)
    assert examples.num_rows == 160
    with (user_files / "digits.txt").open("a") as file:
        file.write(" ")
    assert data.signature() != old_signature
