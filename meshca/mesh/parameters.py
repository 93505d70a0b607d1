"""CloudFormation parameters: what those of a template stand for.

Rules kept here:
- P1 A value that is given goes before the default.
- P2 It is checked against the parameter's allowed values and bounds. `AllowedPattern` is not looked at: it is a Java
  regular expression that a stranger wrote, and App Mesh's own rules hold for the result.
- P3 A parameter of an SSM type takes the value itself; its default is only the name of one.
- P4 The place of a default is that of the value; of a value from outside, that of the reference.
"""

from __future__ import annotations

import re

from meshca.mesh.evaluation import EvaluationError
from meshca.mesh.tree import Node

_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})")
_SSM = "AWS::SSM::Parameter::"
_LISTS = ("CommaDelimitedList", "List<")


def text_of(value: str | float) -> str:
    """Return a scalar as CloudFormation writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parameter_value(name: str, parameter: Node, given: str | None, at: Node) -> Node | None:
    """Return what a parameter stands for, or None where it has no value.

    Raises:
        EvaluationError: the value breaks a rule of the parameter.
    """
    kind, default = parameter.text("Type") or "String", parameter.child("Default")
    if given is None and (default is None or kind.startswith(_SSM)):
        return None
    if given is not None:
        text, offset = given, at.offset
    else:
        assert default is not None  # noqa: S101 - looked at above
        if not isinstance(default.value, str | int | float):
            raise EvaluationError(default.offset, "a default is text or a number", name)
        text, offset = text_of(default.value), default.offset
    _check(name, parameter, text, offset)
    if any(part in kind for part in _LISTS):
        return Node(offset, [Node(offset, part.strip()) for part in text.split(",")])
    return Node(offset, text)


def _check(name: str, parameter: Node, text: str, offset: int) -> None:
    """P2."""
    allowed = parameter.child("AllowedValues")
    if allowed is not None:
        values = [text_of(item.value) for item in allowed.items() if isinstance(item.value, str | int | float)]
        if text not in values:
            raise EvaluationError(offset, f"the parameter {name} allows {', '.join(values[:20])}", text)
    if parameter.text("Type") == "Number" and not _NUMBER.fullmatch(text):
        raise EvaluationError(offset, f"the parameter {name} is a number", text)
    is_number = parameter.text("Type") == "Number"
    _bounds(parameter, ("MinLength", "MaxLength"), len(text), f"the length of the parameter {name}", offset)
    if is_number:
        _bounds(parameter, ("MinValue", "MaxValue"), float(text), f"the parameter {name}", offset)


def _bounds(parameter: Node, keys: tuple[str, str], size: float, what: str, offset: int) -> None:
    for key, sign in zip(keys, (1, -1), strict=True):
        bound = parameter.child(key)
        text = text_of(bound.value) if bound is not None and isinstance(bound.value, str | int | float) else ""
        if _NUMBER.fullmatch(text) and sign * size < sign * float(text):
            raise EvaluationError(offset, f"{what} is at {'least' if sign > 0 else 'most'} {text}", str(size))
