"""Reading of config files as Snakemake reads them, with checks that the YAML reader lacks."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from snakemake.utils import update_config

from robustgen.errors import UserError

NOTATIONS = {
    "octal": re.compile(r"[-+]?0[0-7_]+"),
    "hexadecimal": re.compile(r"[-+]?0x[0-9a-fA-F_]+"),
    "binary": re.compile(r"[-+]?0b[01_]+"),
    "sexagesimal": re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"),
}
"""Notations of numbers in YAML 1.1 other than the decimal one."""


def read(path: str | Path) -> Any:
    """Return the content of a YAML or JSON file.

    Raises:
        UserError: the file cannot be read, has a key twice, or has a value that YAML reads in
            another sense than most people.
    """
    try:
        content = _parse_json_or_yaml(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"the config {path} cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}," if error.problem_mark else ""
        raise UserError(f"the config {path}{line} is not YAML: {error.problem}") from error
    except RecursionError as error:
        raise UserError(f"the config {path} is nested too deeply") from error
    except (ValueError, yaml.YAMLError) as error:
        reason = error.reason if isinstance(error, yaml.reader.ReaderError) else error
        raise UserError(f"the config {path} is not YAML: {reason}") from error
    refuse_repeated_keys(path)
    refuse_misread_values(path)
    return content


def read_merged(paths: Sequence[Path]) -> Any:
    """Return the content of one config file, or of several files, of which later ones add keys.

    Raises:
        UserError: a file cannot be read or is refused, or one of several is not a mapping.
    """
    contents = [read(path) for path in paths]
    if len(contents) == 1:
        return contents[0]
    config: dict[str, Any] = {}
    for path, content in zip(paths, contents, strict=True):
        if not isinstance(content, dict):
            raise UserError(f"the config {path} must be a mapping with keys such as study")
        update_config(config, content)
    return config


def _parse_json_or_yaml(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)


def refuse_repeated_keys(path: str | Path) -> None:
    """Refuse a YAML or JSON file in which a mapping has a key twice.

    YAML readers silently use the last value. A file that cannot be read is accepted here, because
    `read` reports it.

    Raises:
        UserError: a key is there twice; the sentence names file, line and key.
    """
    for mapping in _nodes(path):
        if not isinstance(mapping, yaml.MappingNode):
            continue
        keys = set()
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in keys:
                raise UserError(
                    f"{path}, line {key.start_mark.line + 1}: {key.value} is there twice, but must "
                    "be there once: keep one of them, or put the entries of both under one"
                )
            keys.add(key.value)


def refuse_misread_values(path: str | Path) -> None:
    """Refuse values that YAML reads in another sense than most people: 060 as 48, NO as false.

    A file that cannot be read is accepted here, because `read` reports it.

    Raises:
        UserError: there is such a value; the sentence names file, line, text, meaning and remedy.
    """
    for node in _nodes(path):
        if isinstance(node, yaml.ScalarNode) and (meaning := _unexpected_meaning(node)):
            line = node.start_mark.line + 1
            raise UserError(f"{path}, line {line}: YAML reads {node.value} as {meaning}")


def _unexpected_meaning(node: yaml.ScalarNode) -> str | None:
    """Return the meaning of a value in YAML and what to write instead; None for clear values."""
    text, yaml_type = node.value, node.tag.removeprefix("tag:yaml.org,2002:")
    if yaml_type == "bool" and text.lower() not in ("true", "false"):
        return f'a truth value; write "{text}" in quotes if it is text, or else true or false'
    if yaml_type == "timestamp":
        return f'a date; write "{text}" in quotes'
    notation = next((name for name in NOTATIONS if NOTATIONS[name].fullmatch(text)), None)
    if notation is None or yaml_type not in ("int", "float"):
        return None
    if yaml_type == "float" and notation != "sexagesimal":  # `!!float 010` is 10.0
        return None
    number = yaml.SafeLoader("").construct_object(node)
    decimal = int(text.replace("_", "")) if notation == "octal" else number
    return f'the {notation} number {number}; write {decimal}, or "{text}" if it is text'


def _nodes(path: str | Path) -> Iterator[yaml.Node]:
    """Yield all nodes of a YAML or JSON file in their order; none if the file cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if text.lstrip().startswith("{"):  # JSON may be indented with tabs, which YAML refuses
            text = text.replace("\t", " ")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return
    stack, visited = [root], set()
    while stack:
        node = stack.pop()
        if node is None or id(node) in visited:  # an alias is the node of its anchor
            continue
        visited.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            stack.extend(child for pair in reversed(node.value) for child in reversed(pair))
        elif isinstance(node, yaml.SequenceNode):
            stack.extend(reversed(node.value))
