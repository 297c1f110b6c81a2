"""Read config files as Snakemake does, and refuse what the YAML reader would accept silently."""

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
"""Notations of numbers in YAML 1.1 besides the decimal one."""


def read(path: str | Path) -> Any:
    """The content of a YAML or JSON file.

    Raises:
        UserError: the file cannot be read, has a key twice, or has a value that YAML misreads.
    """
    try:
        content = _parse_json_or_yaml(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"the config {path} cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}," if error.problem_mark else ""
        raise UserError(f"the config {path}{place} is not YAML: {error.problem}") from error
    except RecursionError as error:
        raise UserError(f"the config {path} is nested too deeply") from error
    except (ValueError, yaml.YAMLError) as error:
        reason = error.reason if isinstance(error, yaml.reader.ReaderError) else error
        raise UserError(f"the config {path} is not YAML: {reason}") from error
    refuse_repeated_keys(path)
    refuse_misread_values(path)
    return content


def read_merged(paths: Sequence[Path]) -> Any:
    """The content of one config file, or of several of which later ones add to the first.

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
    """Raise if a mapping in a YAML or JSON file has a key twice, of which the last would win.

    Raises:
        UserError: naming file, line and key. A file that cannot be read passes.
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
    """Raise if YAML reads a value in another sense than most people: 060 as 48, NO as false.

    Raises:
        UserError: naming file, line, the text, its meaning and what to write. A file that cannot
            be read passes.
    """
    for node in _nodes(path):
        if isinstance(node, yaml.ScalarNode) and (meaning := _unexpected_meaning(node)):
            line = node.start_mark.line + 1
            raise UserError(f"{path}, line {line}: YAML reads {node.value} as {meaning}")


def _unexpected_meaning(node: yaml.ScalarNode) -> str | None:
    """What a value means to YAML, and what to write instead; None for a value that is clear."""
    text, kind = node.value, node.tag.removeprefix("tag:yaml.org,2002:")
    if kind == "bool" and text.lower() not in ("true", "false"):
        return f'a truth value; write "{text}" in quotes if it is text, or else true or false'
    if kind == "timestamp":
        return f'a date; write "{text}" in quotes'
    notation = next((name for name in NOTATIONS if NOTATIONS[name].fullmatch(text)), None)
    if notation is None or kind not in ("int", "float"):
        return None
    if kind == "float" and notation != "sexagesimal":  # `!!float 010` is 10.0
        return None
    number = yaml.SafeLoader("").construct_object(node)
    decimal = int(text.replace("_", "")) if notation == "octal" else number
    return f'the {notation} number {number}; write {decimal}, or "{text}" if it is text'


def _nodes(path: str | Path) -> Iterator[yaml.Node]:
    """Yield all nodes of a YAML or JSON file in their order; none if it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if text.lstrip().startswith("{"):  # YAML refuses tabs, with which JSON may be indented
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
