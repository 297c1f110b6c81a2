"""The JSON schema of a config: it equals the definition, and it describes the same configs."""

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic_core import to_jsonable_python
from studies import OUT, Keys, changed, valid

from robustgen.config.blocks import DefaultText, Settings
from robustgen.config.datasets import KINDS
from robustgen.config.messages import describe_allowed
from robustgen.config.schema import format_schema
from robustgen.config.study import Study
from robustgen.errors import UserError

ROOT = Path(__file__).parents[1]
FILE = ROOT / "config/schema.json"
SCHEMA = json.loads(FILE.read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
CONFIGS = sorted(ROOT.glob("config/*.yaml"))
EDITOR_LINE = "# yaml-language-server: $schema=schema.json\n"


def test_the_schema_file_equals_the_definition() -> None:
    command = "python -m robustgen.config.schema > config/schema.json"
    assert FILE.read_text("utf-8") == format_schema(), f"write it anew: {command}"


def test_the_command_prints_the_schema() -> None:
    run = subprocess.run([sys.executable, "-m", "robustgen.config.schema"], capture_output=True)
    assert run.stdout.decode() == FILE.read_text("utf-8")


def test_the_schema_is_a_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs_of_the_project_match_the_schema(path: Path) -> None:
    text = path.read_text("utf-8")
    config = yaml.safe_load(text)
    assert text.startswith(EDITOR_LINE)
    VALIDATOR.validate(config)
    VALIDATOR.validate(Study.parse(config).to_config())


MISTAKES: dict[str, tuple[Keys, Any]] = {
    "unknown key": (("threats", "ball", "colour"), 1),
    "former key": (("classifier",), {"rate": 0.1}),
    "missing key": (("threats", "ball", "norm"), OUT),
    "null": (("methods", "hardened", "threat"), None),
    "null number": (("seeds",), None),
    "number out of range": (("seeds",), 0),
    "radius of zero": (("threats", "ball", "radius"), 0),
    "unknown norm": (("threats", "ball", "norm"), "l1"),
    "unknown kind": (("datasets", "letters", "kind"), "font"),
    "key of another kind": (("datasets", "letters", "path"), "fonts"),
    "unusable name": (("attacks", "Pixels"), {"threat": "ball"}),
    "unusable name of a study": (("study",), "a/b"),
    "empty list": (("sizes",), []),
    "empty list of methods": (("distances", "methods"), []),
    "value given twice": (("sizes",), [20, 20]),
    "no attacks": (("attacks",), {}),
    "steps without a threat": (("methods", "plain", "steps"), 3),
    "unusable class": (("manifolds",), {"letters": {"betas": {"one": 1.0}}}),
    "mirror in two lines": (("downloads",), {"mirror": "a\nb"}),
}


@pytest.mark.parametrize(("keys", "value"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_one_key_does_not_match_the_schema(keys: Keys, value: Any) -> None:
    config = changed((keys, value))
    VALIDATOR.validate(valid())
    with pytest.raises(UserError):
        Study.parse(config)
    assert not VALIDATOR.is_valid(config)


def schemas_of_blocks() -> Iterator[tuple[type[Settings], dict[str, Any]]]:
    """Yield every block of a config with its schema."""
    yield Study, SCHEMA
    blocks = {kind.__name__: kind for kind in KINDS.values()}
    blocks |= {block.__name__: block for block in Settings.__subclasses__()}
    blocks["Judge"] = blocks["Manifold"].model_fields["judge"].annotation
    for name, schema in SCHEMA["$defs"].items():
        yield blocks[name], schema


BLOCKS = {block.__name__: (block, schema) for block, schema in schemas_of_blocks()}
ALLOWED_VALUES = runpy.run_path(str(ROOT / "docs/hooks.py"))["allowed_values"]


@pytest.mark.parametrize(("block", "schema"), BLOCKS.values(), ids=BLOCKS)
def test_each_key_has_its_description_default_and_allowed_values(
    block: type[Settings], schema: dict[str, Any]
) -> None:
    properties = schema["properties"]
    assert list(properties) == list(block.model_fields)
    for key, field in block.model_fields.items():
        assert properties[key]["description"] == " ".join(str(field.description).split()), key
        assert ALLOWED_VALUES(properties[key]) == describe_allowed(field), key
        assert (key in schema.get("required", [])) == field.is_required(), key
        texts = [note.text for note in field.metadata if isinstance(note, DefaultText)]
        assert properties[key].get("x-default") == next(iter(texts), None), key
        default = None if texts else field.get_default(call_default_factory=True)
        if isinstance(default, Settings):
            default = {}
        if not field.is_required():
            assert properties[key].get("default") == to_jsonable_python(default), key
