"""The JSON schema of a study's config, for editors and for the documentation.

    python -m robustgen.config.schema > config/schema.json

The schema describes each key on its own. `Study.parse` also checks the keys together and the files
that they name. Two keys extend JSON Schema: `x-allowed`, the allowed values in words, and
`x-default`, a default that depends on other keys, in words.
"""

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from robustgen.config.study_blocks import StudyBlocks

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _SchemaGenerator(GenerateJsonSchema):
    """Generates a schema in the order of the keys, in which no key may be null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """Leave out null, which marks a missing key in the models and is refused in a config."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Leave out defaults that depend on other keys; write `{}` for the defaults of a block."""
        json_schema = super().default_schema(schema)
        default = schema.get("default")
        if "x-default" in json_schema or default is None:
            json_schema.pop("default", None)
        elif isinstance(default, BaseModel):
            json_schema["default"] = {}
        return json_schema

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Refuse keys that do not match the pattern of names, which pydantic would allow."""
        json_schema = super().dict_schema(schema)
        for pattern, values in json_schema.pop("patternProperties", {}).items():
            json_schema |= {"propertyNames": {"pattern": pattern}, "additionalProperties": values}
        return json_schema

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        """Omit titles, which would repeat the names of the keys."""
        return False

    def sort(
        self,
        value: JsonSchemaValue,
        parent_key: str | None = None,  # noqa: ARG002
    ) -> JsonSchemaValue:
        """Keep the order of the definitions."""
        return value


def make_schema() -> dict[str, Any]:
    """Return the JSON schema of a study's config."""
    schema = StudyBlocks.model_json_schema(schema_generator=_SchemaGenerator)
    title = {"$schema": DIALECT, "title": "Study", "description": "The config of a study."}
    schema = {**title, **{key: value for key, value in schema.items() if key not in title}}
    result: dict[str, Any] = _join_lines(schema)
    return result


def _join_lines(value: Any) -> Any:
    """Return a schema whose descriptions have one line each."""
    if isinstance(value, list):
        return [_join_lines(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: " ".join(item.split())
        if key == "description" and isinstance(item, str)
        else _join_lines(item)
        for key, item in value.items()
    }


def format_schema() -> str:
    """Return the text of `config/schema.json`."""
    return json.dumps(make_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(format_schema(), end="")
