"""A MkDocs hook: writes tables into the pages from the definitions in the package.

A line `<!-- generated: NAME ARGUMENTS -->` in a page is replaced with what `GENERATORS[NAME]`
returns, so that the documentation cannot differ from the code.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from robustgen.analysis.claims import CLAIM_SENTENCES, STATISTICS
from robustgen.config import blocks as settings
from robustgen.config import datasets as data_settings
from robustgen.config import manifolds as manifold_settings
from robustgen.config.messages import allowed_in
from robustgen.config.study import Study
from robustgen.io import schemas as tables

BLOCKS: dict[str, type[settings.Settings]] = {
    "Study": Study,
    "Classifier": settings.Classifier,
    "Manifold": manifold_settings.Manifold,
    "Judge": manifold_settings.Judge,
    "Threat": settings.Threat,
    "Method": settings.Method,
    "Attack": settings.Attack,
    "Distances": settings.Distances,
    "Downloads": data_settings.Downloads,
}
"""The blocks of a config, by the name of their class; data sets are in `KINDS`."""

MARKER = re.compile(r"^<!-- generated: (\w+)((?: \w+)*) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers of a page. MkDocs calls this for every page."""
    return MARKER.sub(lambda match: GENERATORS[match[1]](*match[2].split()), markdown)


def settings_table(block: str) -> str:
    """The keys of a block of the config, in the order of their definition."""
    return _fields_table(BLOCKS[block].model_fields.items())


def kinds() -> str:
    """A section for each kind of data set, with its keys."""
    sections = []
    for kind, reader in data_settings.KINDS.items():
        fields = [(key, field) for key, field in reader.model_fields.items() if key != "kind"]
        meaning = _one_line(reader.model_fields["kind"].description)
        sections.append(f"### `kind: {kind}`\n\n{meaning}\n\n{_fields_table(fields)}")
    return "\n\n".join(sections)


def columns_table(schema: str) -> str:
    """The columns of a Parquet table, by the name of its schema in `robustgen.io.schemas`."""
    rows = []
    for field in getattr(tables, schema):
        about = {key.decode(): text.decode() for key, text in field.metadata.items()}
        meaning = about["description"] + ("; may be empty" if field.nullable else "")
        rows.append([f"`{field.name}`", _type_name(field.type), about["unit"], meaning])
    return _table(["column", "type", "unit", "meaning"], rows)


def statistics_table() -> str:
    """The statistics that test the claims, each with its threshold."""
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


GENERATORS: dict[str, Callable[..., str]] = {
    "settings": settings_table,
    "kinds": kinds,
    "columns": columns_table,
    "statistics": statistics_table,
}
"""What may be generated, by its name in a marker."""


def _fields_table(fields: Iterable[tuple[str, FieldInfo]]) -> str:
    rows = [
        [f"`{key}`", allowed_in(field), _default(field), _one_line(field.description)]
        for key, field in fields
    ]
    return _table(["key", "allowed", "default", "meaning"], rows)


def _default(field: FieldInfo) -> str:
    """The default of a key in words or as YAML."""
    for note in field.metadata:
        if isinstance(note, settings.DefaultText):
            return note.text
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    return "none" if value is None else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    """A default as it would be written in a config."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    return str(value)


def _type_name(kind: pa.DataType) -> str:
    """An Arrow type in one word."""
    if pa.types.is_dictionary(kind):
        return _type_name(kind.value_type)
    names = {"string": "text", "bool": "true or false", "float": "float32", "double": "float64"}
    return names.get(str(kind), str(kind))


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    escaped = [[cell.replace("|", "&#124;") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
