"""Config files as they are written: read as Snakemake does, and what it would not tell of."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from robustgen.errors import UserError


def read(path: str | Path) -> Any:
    """What a YAML or JSON file holds.

    Raises:
        UserError: saying why it cannot be read, or where it has a key twice.
    """
    try:
        held = _json_or_yaml(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"the config {path} cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}," if error.problem_mark else ""
        raise UserError(f"the config {path}{place} is not YAML: {error.problem}") from error
    except (ValueError, yaml.YAMLError) as error:
        why = error.reason if isinstance(error, yaml.reader.ReaderError) else error
        raise UserError(f"the config {path} is not YAML: {why}") from error
    refuse_repeated_keys(path)
    return held


def _json_or_yaml(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)


def refuse_repeated_keys(path: str | Path) -> None:
    """Raise if a mapping in a YAML or JSON file has a key twice, of which the last would win.

    Raises:
        UserError: naming file, line and key. What cannot be read is left to who reads it.
    """
    try:
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return
    for mapping in _mappings(root):
        seen = set()
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise UserError(
                    f"{path}, line {key.start_mark.line + 1}: {key.value} is there twice, but must "
                    "be there once; join what they hold"
                )
            seen.add(key.value)


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """All mappings below a node."""
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value)
