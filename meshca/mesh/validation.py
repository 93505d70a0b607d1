"""From what a document says to a checked spec, with a finding for everything that breaks a rule.

Rules kept here:
- V1 A key that App Mesh does not know is an error at and under `tls` and `validation`, and where it looks like a key of
  a TLS policy in the wrong place or misspelt: there a slip silently weakens security. Elsewhere it is a warning.
- V2 All findings of a spec are reported in one run: unknown keys are set aside, then the rest is checked.
- V3 In a loose form (CloudFormation) numbers and truth values may be written as text, and text as numbers.
- V4 A text has at most 500 different unknown keys: for each the known one that looks most like it is searched.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache, lru_cache, reduce
from operator import getitem
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from meshca.mesh.model import SPECS, Spec
from meshca.mesh.tree import UNKNOWN, Node, Path, Report, Subject, field_of, offset_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic_core import ErrorDetails

    from meshca.mesh.described import Described

_SECURITY_KEYS = (
    "tls",
    "validation",
    "clientpolicy",
    "backenddefaults",
    "certificate",
    "trust",
    "subjectalternativenames",
    "enforce",
    "mode",
)
_CLOSE = 0.75
_MOST_UNKNOWN = 500
_LONGEST_GUESS = 64
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")

_RULES = {
    "missing": "this key is required",
    "int_type": "a whole number is needed",
    "string_type": "text is needed",
    "bool_type": "true or false is needed",
    "model_type": "a mapping is needed",
    "model_attributes_type": "a mapping is needed",
    "dict_type": "a mapping is needed",
    "tuple_type": "a list is needed",
    "literal_error": "one of {expected} is needed",
    "greater_than_equal": "at least {ge} is needed",
    "less_than_equal": "at most {le} is allowed",
    "string_too_short": "at least {min_length} characters are needed",
    "string_too_long": "at most {max_length} characters are allowed",
    "too_short": "at least {min_length} entries are needed",
    "too_long": "at most {max_length} entries are allowed",
    "string_pattern_mismatch": "the text must match {pattern}",
    "value_error": "{error}",
}


def checked_spec(item: Described, report: Report, subject: str) -> Spec | None:
    """Return the spec of an object, or None where an error was reported."""
    kind, node, mesh = item.kind, item.spec, item.mesh
    plain = node.plain()
    errors_before = report.errors
    spec, details = _validated(kind, plain, mesh)
    if item.loose and _convert(plain, details):
        spec, details = _validated(kind, plain, mesh)
    unknown = [detail["loc"] for detail in details if detail["type"] == "extra_forbidden"]
    report.unknown_keys.update(str(path[-1]) for path in unknown)
    if len(report.unknown_keys) > _MOST_UNKNOWN:
        report.error(node.offset, f"a text has at most {_MOST_UNKNOWN} different unknown keys", Subject(subject))
        return None
    for path in sorted(unknown, key=len, reverse=True):
        _report_unknown(path, node, report, subject)
        _remove(plain, path)
    if unknown:
        spec, details = _validated(kind, plain, mesh)
    for detail in details:
        if not _is_echo(detail):
            _report(detail, node, report, subject)
    return spec if report.errors == errors_before else None


def _validated(kind: str, plain: Any, mesh: str) -> tuple[Spec | None, list[ErrorDetails]]:
    """Return a spec, or what is wrong with it."""
    try:
        return SPECS[kind].model_validate(plain, by_alias=True, by_name=False, context={"mesh": mesh}), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _convert(plain: Any, details: list[ErrorDetails]) -> bool:
    """V3: write each scalar that stands for one of another type as that type; return whether there was one."""
    converted = False
    for detail in details:
        value = _of_type(detail["type"], detail["input"])
        if value is not None and detail["loc"]:
            *above, last = detail["loc"]
            reduce(getitem, above, plain)[last] = value
            converted = True
    return converted


def _of_type(error: str, value: object) -> object:
    if error == "int_type" and isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        return int(value)
    if error == "bool_type" and isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    if error == "string_type" and isinstance(value, bool | int):
        return str(value).lower()
    return None


def _report_unknown(path: Path, node: Node, report: Report, subject: str) -> None:
    """V1."""
    key = str(path[-1])
    guess = _closest(key)
    remedy = f"did you mean {guess}?" if guess and guess != key else "remove it, or move it to its place"
    about = Subject(subject, field_of(path), "", remedy)
    if {"tls", "validation"}.intersection(path):
        report.error(
            offset_of(node, path), f"App Mesh knows no key {key!r} here, and under tls nothing is ignored", about
        )
    elif guess.lower() in _SECURITY_KEYS or key.lower() in _SECURITY_KEYS:
        report.error(
            offset_of(node, path), f"App Mesh knows no key {key!r} here, and a TLS policy is not ignored", about
        )
    else:
        report.add("warning", offset_of(node, path), f"App Mesh knows no key {key!r} here; it is ignored", about)


def _report(detail: ErrorDetails, node: Node, report: Report, subject: str) -> None:
    path = detail["loc"]
    template = _RULES.get(detail["type"])
    rule = template.format_map(detail.get("ctx", {})) if template else detail["msg"]
    field = field_of(path)
    remedy = "write the number without quotes" if detail["type"] == "int_type" and _is_number(detail["input"]) else ""
    report.error(offset_of(node, path), rule, Subject(subject, field, _shown(detail), remedy))


def _is_echo(detail: ErrorDetails) -> bool:
    """Tell whether a finding only repeats an earlier one: an unknown value, or too few members without a fault."""
    if detail["input"] is UNKNOWN:
        return True
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def _shown(detail: ErrorDetails) -> str:
    value = detail["input"]
    if detail["type"] == "missing" or not isinstance(value, str | int | float | bool):
        return ""
    return str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, str) and value.isdecimal()


def _remove(plain: Any, path: Path) -> None:
    for step in path[:-1]:
        plain = plain[step]
    plain.pop(path[-1], None)


@lru_cache(maxsize=1024)
def _closest(key: str) -> str:
    """Return the known key that looks most like an unknown one, if any does."""
    if len(key) > _LONGEST_GUESS:
        return ""
    return next(iter(get_close_matches(key, known_keys(), n=1, cutoff=_CLOSE)), "")


@cache
def known_keys() -> tuple[str, ...]:
    """Return every key of every spec."""
    return tuple(sorted({key for spec in SPECS.values() for key in _keys_under(spec, set())}))


def _keys_under(shape: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    if shape in seen:
        return
    seen.add(shape)
    for name, info in shape.model_fields.items():
        yield info.alias or name
        for inner in _shapes_in(info.annotation):
            yield from _keys_under(inner, seen)


def _shapes_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _shapes_in(argument)
