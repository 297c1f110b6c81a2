"""Error messages about a config: one sentence with the key, its value and what is allowed."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import (
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from robustgen.errors import UserError

_MAX_VALUE_CHARACTERS = 60
"""Characters of a value that a sentence shows."""
_ALLOWED_BY_ERROR_TYPE = {
    "dict_type": "a mapping of names to settings",
    "tuple_type": "a list",
    "too_short": "a list or mapping with at least one entry",
}
"""Descriptions of allowed values, by pydantic's types of errors."""


def format_value(value: Any) -> str:
    """Return a value as YAML spells it, on one line and cut to a fixed length."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    if len(text) <= _MAX_VALUE_CHARACTERS:
        return text
    return text[: _MAX_VALUE_CHARACTERS - 3] + "..."


def join_words(words: Iterable[str], conjunction: str = "or") -> str:
    """Return words as a list in a sentence: "a, b or c"; "none" for an empty list."""
    *head, tail = list(words) or ["none"]
    return f"{', '.join(head)} {conjunction} {tail}" if head else tail


def suggestion(word: Any, names: Iterable[str]) -> str:
    """Return " (did you mean NAME?)" with the most similar name; empty if none is similar."""
    matches = get_close_matches(str(word)[:_MAX_VALUE_CHARACTERS], list(names), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def key_path(*keys: Any) -> str:
    """Return the full path of a key, e.g. `attacks.regular.steps` or `sizes[1]`.

    Integers are indices of lists. Without keys, the path is "the config".
    """
    text = ""
    for key in keys:
        if isinstance(key, int) and not isinstance(key, bool):
            text += f"[{key}]"
        else:
            is_plain = isinstance(key, str) and re.fullmatch(r"[\w-]+", key, re.ASCII)
            is_short = is_plain and len(key) <= _MAX_VALUE_CHARACTERS
            text += f".{key if is_short else format_value(key)}"
    return text.removeprefix(".") or "the config"


def format_key(key: Any) -> str:
    """Return a key of a mapping as text; YAML may have read it as a number or a truth value."""
    return key if isinstance(key, str) else format_value(key)


def value_error(value: Any, allowed: str, *keys: Any) -> UserError:
    """Return the error for a value at `keys` that is not `allowed`."""
    return UserError(f"{key_path(*keys)} is {format_value(value)}, but must be {allowed}")


def validation_error(message: str, *keys: Any) -> PydanticCustomError:
    """Return an error for a pydantic validator to raise.

    The sentence consists of the path of the validated value, extended by `keys`, and `message`.
    """
    return PydanticCustomError("robustgen", "{message}", {"message": message, "keys": keys})


@dataclass(frozen=True)
class AllowedText:
    """An annotation of a type: the allowed values in words, which all its errors quote."""

    text: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._validate, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "x-allowed": self.text}

    def _validate(self, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("allowed", "{allowed}", {"allowed": self.text}) from error


def describe_allowed(field: FieldInfo) -> str:
    """Return the allowed values of a field in words."""
    origin, annotations = get_origin(field.annotation), list(field.metadata)
    if origin is Union:  # an optional key: the annotations belong to the part that is not None
        for part in get_args(field.annotation):
            annotations += getattr(part, "__metadata__", ())
    for annotation in annotations:
        if isinstance(annotation, AllowedText):
            return annotation.text
    if origin is Literal:
        return join_words(get_args(field.annotation))
    return "a list" if origin is tuple else "a mapping"


def first_message(error: ValidationError) -> str:
    """Return the first error of a validated config as one sentence without a line break."""
    first = error.errors(include_url=False)[0]
    location, value, context = first["loc"], first["input"], first.get("ctx", {})
    if location[-1:] == ("[key]",):
        path = key_path(*location[:-2], format_key(value))
        return f"{path} is not a usable name: it must be {context['allowed']}"
    if location[:1] == ("datasets",):
        location = location[:2] + location[3:]  # pydantic puts the kind after the name
    if first["type"] == "robustgen":
        return f"{key_path(*location, *context['keys'])} {context['message']}"
    allowed = (
        context.get("allowed")
        or _ALLOWED_BY_ERROR_TYPE.get(first["type"])
        or context.get("expected", "").replace("'", "")
        or " ".join(first["msg"].split())
    )
    return f"{value_error(value, allowed, *location)}{_yaml_hint(value, allowed)}"


def _yaml_hint(value: Any, allowed: str) -> str:
    """Say what to write where YAML probably read another type than the user meant.

    Args:
        value: the value as YAML read it.
        allowed: the allowed values in words.
    """
    if "number" not in allowed:
        if "text" in allowed and isinstance(value, int | float):
            return "; put it in quotes, or YAML reads it as a number or a truth value"
        return ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else " and finite"
    return _number_hint(value, is_integer="whole" in allowed) if isinstance(value, str) else ""


def _number_hint(text: str, *, is_integer: bool) -> str:
    """Say how to write a text that looks like a number; empty for other texts."""
    number = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
    fraction = re.fullmatch(rf"({number}) */ *({number})", text)
    if fraction and float(fraction[2]):
        return f"; write {float(fraction[1]) / float(fraction[2]):.4g} for {text}"
    parts = re.fullmatch(rf"({number})(?:[eE]([+-]?[0-9]+))?", text)
    if not parts:
        return ""
    if is_integer:
        value = float(text)
        return f"; write {value:.0f} in the file, without quotes" if value.is_integer() else ""
    mantissa, exponent = parts.groups()
    if exponent is None:
        return f"; write {mantissa} in the file, without quotes"
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    exponent = exponent if exponent[0] in "+-" else f"+{exponent}"
    return f"; YAML reads this as text, write {mantissa}e{exponent}"
