"""Mistakes in a config, each told in one sentence: where, what was given, what is allowed."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import GetCoreSchemaHandler, ValidationError, ValidatorFunctionWrapHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from robustgen.errors import UserError

_LONGEST = 60
_SHAPES = {
    "dict_type": "a mapping of names to settings",
    "tuple_type": "a list",
    "too_short": "non-empty",
}


def shown(value: Any) -> str:
    """A value as a sentence shows it: short, on one line, and spelt as in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def listed(names: Iterable[str], last: str = "or") -> str:
    """Names as a sentence lists them: "a, b or c"; "none" if there are none."""
    *most, end = list(names) or ["none"]
    return f"{', '.join(most)} {last} {end}" if most else end


def near(word: Any, names: Iterable[str]) -> str:
    """A question about the one of `names` most like `word`; empty if none is like it."""
    close = get_close_matches(str(word)[:_LONGEST], list(names), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def path(*keys: Any) -> str:
    """The full path of a key, e.g. `attacks.regular.steps` or `sizes[1]`; an int is an index."""
    text = ""
    for key in keys:
        if isinstance(key, int) and not isinstance(key, bool):
            text += f"[{key}]"
        else:
            plain = isinstance(key, str) and re.fullmatch(r"[\w-]+", key, re.ASCII)
            text += f".{key if plain and len(key) <= _LONGEST else shown(key)}"
    return text.removeprefix(".") or "the config"


def key_text(key: Any) -> str:
    """A key of a mapping as text, should YAML have read it as something else."""
    return key if isinstance(key, str) else shown(key)


def refusal(value: Any, allowed: str, *keys: Any) -> UserError:
    """The error for a value at `keys` that is not what is allowed there."""
    return UserError(f"{path(*keys)} is {shown(value)}, but must be {allowed}")


def mistake(says: str, *keys: Any) -> PydanticCustomError:
    """An error for a pydantic validator to raise: the path, on to `keys`, and what it `says`."""
    return PydanticCustomError("mistake", "{says}", {"says": says, "keys": keys})


@dataclass(frozen=True)
class Said:
    """Annotates a type with what it allows, in words, which every error in it then says."""

    allowed: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._check, handler(source))

    def _check(self, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("allowed", "{allowed}", {"allowed": self.allowed}) from error


def allowed_in(field: FieldInfo) -> str:
    """What a field allows, in words."""
    origin, notes = get_origin(field.annotation), list(field.metadata)
    if origin is Union:  # of what is allowed, and None where the key is left out
        for part in get_args(field.annotation):
            notes += getattr(part, "__metadata__", ())
    for note in notes:
        if isinstance(note, Said):
            return note.allowed
    if origin is Literal:
        return listed(get_args(field.annotation))
    return "a list" if origin is tuple else "a mapping"


def sentence(error: ValidationError) -> str:
    """The first mistake of a validated config, in one sentence without a line break."""
    first = error.errors(include_url=False)[0]
    where, given, context = first["loc"], first["input"], first.get("ctx", {})
    if where[-1:] == ("[key]",):
        named = path(*where[:-2], key_text(given))
        return f"{named} is no usable name: it must be {context['allowed']}"
    if where[:1] == ("datasets",):
        where = where[:2] + where[3:]  # between the two pydantic puts the kind
    if first["type"] == "mistake":
        return f"{path(*where, *context['keys'])} {context['says']}"
    allowed = (
        context.get("allowed")
        or _SHAPES.get(first["type"])
        or context.get("expected", "").replace("'", "")
        or " ".join(first["msg"].split())
    )
    return f"{refusal(given, allowed, *where)}{_advice(given, allowed)}"


def _advice(given: Any, allowed: str) -> str:
    """What to write instead, where YAML has read something else than was meant."""
    if "number" not in allowed:
        text = "text" in allowed and isinstance(given, int | float)
        return "; put it in quotes, or YAML reads it as a number or a truth value" if text else ""
    if isinstance(given, float) and not math.isfinite(given):
        return " and finite"
    number = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
    fraction = re.fullmatch(rf"({number}) */ *({number})", str(given))
    if fraction and float(fraction[2]):
        return f"; write {float(fraction[1]) / float(fraction[2]):.4g} for {given}"
    parts = re.fullmatch(
        rf"({number})(?:[eE]([+-]?[0-9]+))?", given if isinstance(given, str) else ""
    )
    if not parts:
        return ""
    if "whole" in allowed:
        value = float(given)
        return f"; write {value:.0f} in the file, without quotes" if value.is_integer() else ""
    front, power = parts.groups()
    if power is None:
        return f"; write {front} in the file, without quotes"
    front = front if "." in front else f"{front}.0"
    power = power if power[0] in "+-" else f"+{power}"
    return f"; YAML reads this as text, write {front}e{power}"
