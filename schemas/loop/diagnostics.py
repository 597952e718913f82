"""Diagnostics for people from the errors of pydantic: what is wrong, and what to do about it."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.fields import FieldType


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing that is wrong, its hint, and its path in the definition."""

    what: str
    hint: str
    path: tuple[str, ...]


def diagnostics(error: ValidationError, value: object) -> list[Diagnostic]:
    """Return one diagnostic per error of *error*, the result of validating *value* as a loop."""
    found = [_diagnostic(dict(one), value) for one in error.errors(include_url=False)]
    unique: dict[tuple[str, ...], Diagnostic] = {}
    for each in found:  # a union reports an error per member; the first is enough
        unique.setdefault(each.path, each)
    return list(unique.values())


def _diagnostic(error: Mapping[str, Any], value: object) -> Diagnostic:
    path = _existing(tuple(str(part) for part in error["loc"]), value, error["type"])
    context = error.get("ctx", {})
    if error["type"] == "loop":
        return Diagnostic(context["what"], context["hint"], (*path, *context["at"]))
    name = ".".join(path) or "the loop"
    given = error.get("input")
    match error["type"]:
        case "extra_forbidden":
            known = _known_keys(path[:-1])
            return Diagnostic(f"unknown key {name!r}", _did_you_mean(path[-1], known), path)
        case "missing":
            return Diagnostic(f"{name!r} is missing", f"add {path[-1]}:", path)
        case "value_error":
            hint = "write a number and its unit, ms, s, m, h or d, say 30m"
            if "size" in str(context["error"]):
                hint = "write a number and its unit, kB, MB or GB, say 512MB"
            return Diagnostic(f"{name}: {context['error']}", hint, path)
        case "enum":
            kinds = [kind.value for kind in FieldType]
            return Diagnostic(f"{name}: no type {given!r}", _did_you_mean(str(given), kinds), path)
        case "literal_error":
            hint = f"write one of {context['expected']}"
            return Diagnostic(f"{name}: {given!r} is not known", hint, path)
        case "string_pattern_mismatch":
            what = f"{name}: {given!r} is not a legal name"
            dash = "dashes" if path == ("loop",) else "underscores"
            hint = f"use small letters, digits and {dash}, starting with a letter"
            return Diagnostic(what, hint, path)
        case "model_type" | "model_attributes_type" | "dict_type":
            hint = (
                f"write its keys on the lines below: {', '.join(_known_keys(path)) or 'name: ...'}"
            )
            return Diagnostic(
                f"{name} is {_short(given)}, not a map of keys and values", hint, path
            )
    says = error["msg"].removeprefix("Input should ").removeprefix("Value error, ")
    what = f"{name} is {_short(given)} but should {says}"
    return Diagnostic(what, "change the value, or leave the key out for its default", path)


def _existing(path: tuple[str, ...], value: object, kind: str) -> tuple[str, ...]:
    """Drop the parts that pydantic adds to a path for union members and keys."""
    existing: list[str] = []
    for part in path:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif not (kind == "missing" and part == path[-1]):
            continue
        existing.append(part)
    return tuple(existing)


def _known_keys(path: tuple[str, ...]) -> list[str]:
    """Return the keys that the definition may have at *path*."""
    model: object = Loop
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(part)
            model = field.annotation if field else None
        else:  # a key of a map: go on with the type of its values
            model = get_args(model)[1] if len(get_args(model)) == 2 else None
        members = [one for one in get_args(model) if isinstance(one, type)]
        models = [one for one in members if issubclass(one, BaseModel)]
        if type(None) in members and models:
            model = models[0]
    if isinstance(model, type) and issubclass(model, BaseModel):
        return list(model.model_fields)
    return []


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    listed = ", ".join(known)
    if close:
        return f"did you mean {close[0]}? possible are {listed}"
    return f"possible are {listed}" if known else "remove it"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
