"""A MkDocs hook: fills tables into the pages, from the schema of a config and from the package.

A line `<!-- generated: NAME ARGUMENTS -->` in a page is replaced with what `GENERATORS[NAME]`
returns, so that the documentation cannot differ from the code.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from robustgen.analysis.claims import CLAIM_SENTENCES, STATISTICS
from robustgen.analysis.robustness_checks import ALL_CHECKS
from robustgen.config.messages import join_words
from robustgen.io import schemas as tables

SCHEMA = json.loads((Path(__file__).parents[1] / "config/schema.json").read_text("utf-8"))
"""The JSON schema of a config, which `robustgen.config.schema` writes."""
_DEFINITIONS = SCHEMA["$defs"]
_KINDS = SCHEMA["properties"]["datasets"]["additionalProperties"]["discriminator"]["mapping"]

KINDS: dict[str, str] = {kind: link.rpartition("/")[2] for kind, link in _KINDS.items()}
"""The class of a data set's settings, by its kind."""
BLOCKS: dict[str, dict[str, Any]] = {
    "Study": SCHEMA,
    **{name: block for name, block in _DEFINITIONS.items() if name not in KINDS.values()},
}
"""The schemas of the blocks of a config other than data sets, by the name of their class."""

MARKER = re.compile(r"^<!-- generated: (\w+)((?: \w+)*) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers of a page. MkDocs calls this for every page."""
    return MARKER.sub(lambda match: GENERATORS[match[1]](*match[2].split()), markdown)


def settings_table(block: str) -> str:
    """Return the keys of a block of the config, in the order of their definition."""
    return _keys_table(BLOCKS[block])


def kinds() -> str:
    """Return a section for each kind of data set, with its keys."""
    sections = []
    for kind, name in KINDS.items():
        block = _DEFINITIONS[name]
        meaning = block["properties"]["kind"]["description"]
        table = _keys_table(block, excluded="kind")
        sections.append(f"### `kind: {kind}`\n\n{meaning}\n\n{table}")
    return "\n\n".join(sections)


def columns_table(schema: str) -> str:
    """Return the columns of a Parquet table, whose schema `robustgen.io.schemas` defines."""
    rows = []
    for field in getattr(tables, schema):
        metadata = {key.decode(): text.decode() for key, text in field.metadata.items()}
        meaning = metadata["description"] + ("; may be empty" if field.nullable else "")
        rows.append([f"`{field.name}`", _type_name(field.type), metadata["unit"], meaning])
    return _table(["column", "type", "unit", "meaning"], rows)


def statistics_table() -> str:
    """Return the statistics that test the claims, each with its threshold."""
    sections = []
    for claim, words in CLAIM_SENTENCES.items():
        rows = [
            [f"`{statistic.name}`", f"{statistic.description}.", f"{statistic.threshold:g}"]
            for statistic in STATISTICS
            if statistic.claim == claim
        ]
        table = _table(["statistic", "what is estimated", "threshold"], rows)
        sections.append(f"### Claim {claim}\n\n{words}.\n\n{table}")
    return "\n\n".join(sections)


def checks_table() -> str:
    """Return the checks of success rates, each with its bound."""
    rows = [
        [
            name.replace("_", " "),
            check.description,
            f"{check.bound:.0%}",
            check.meaning,
            check.remedy,
        ]
        for name, check in ALL_CHECKS.items()
    ]
    return _table(["check", "value", "bound", "a higher value means", "what to do"], rows)


GENERATORS: dict[str, Callable[..., str]] = {
    "settings": settings_table,
    "kinds": kinds,
    "columns": columns_table,
    "statistics": statistics_table,
    "checks": checks_table,
}
"""The functions that markers name."""


def _keys_table(block: Mapping[str, Any], excluded: str = "") -> str:
    required = block.get("required", [])
    rows = [
        [
            f"`{key}`",
            allowed_values(schema),
            "required" if key in required else _default(schema),
            schema["description"],
        ]
        for key, schema in block["properties"].items()
        if key != excluded
    ]
    return _table(["key", "allowed", "default", "meaning"], rows)


def allowed_values(schema: Mapping[str, Any]) -> str:
    """Return the allowed values of a key in words."""
    if "x-allowed" in schema:
        return str(schema["x-allowed"])
    if "enum" in schema or "const" in schema:
        return join_words(schema.get("enum", [schema.get("const")]))
    return "a list" if schema.get("type") == "array" else "a mapping"


def _default(schema: Mapping[str, Any]) -> str:
    """Return the default of a key in words or as YAML."""
    if "x-default" in schema:
        return str(schema["x-default"])
    if "$ref" in schema:
        return "its defaults"
    return f"`{_format_yaml(schema['default'])}`" if "default" in schema else "none"


def _format_yaml(value: Any) -> str:
    """Return a default as it would be written in a config."""
    return f"[{', '.join(map(_format_yaml, value))}]" if isinstance(value, list) else str(value)


def _type_name(arrow_type: pa.DataType) -> str:
    """Return an Arrow type in one word."""
    if pa.types.is_dictionary(arrow_type):
        return _type_name(arrow_type.value_type)
    names = {"string": "text", "bool": "true or false", "float": "float32", "double": "float64"}
    return names.get(str(arrow_type), str(arrow_type))


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    escaped = [[cell.replace("|", "&#124;") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
