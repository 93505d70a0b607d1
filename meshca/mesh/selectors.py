"""Label selectors of Kubernetes.

Rules kept here:
- An absent selector selects nothing, an empty one everything.
- A key that Kubernetes does not know is an error: without it the selector would select more than was meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshca.mesh.tree import Node, Report, Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def selects(selector: Node | None, labels: Mapping[str, str]) -> bool:
    """Tell whether a selector selects what has these labels; one that is malformed selects nothing."""
    if selector is None or selector.value is None or _fault(selector):
        return False
    wanted = selector.child("matchLabels")
    equal = all(labels.get(key) == member.node.value for key, member in (wanted.members() if wanted else {}).items())
    expressions = selector.child("matchExpressions")
    return equal and all(_holds(expression, labels) for expression in (expressions.items() if expressions else ()))


def check_selector(selector: Node | None, field: str, report: Report) -> None:
    """Report what is wrong with a selector."""
    rule = _fault(selector) if selector is not None and selector.value is not None else ""
    if selector is not None and rule:
        report.error(selector.offset, rule, Subject(field=field))


def _fault(selector: Node) -> str:
    if not isinstance(selector.value, dict):
        return "a selector is a mapping"
    strange = sorted(set(selector.value) - {"matchLabels", "matchExpressions"})
    if strange:
        return f"a selector has matchLabels and matchExpressions, not {strange[0]!r}"
    expressions = selector.child("matchExpressions")
    for expression in expressions.items() if expressions is not None else []:
        if expression.text("key") is None or expression.text("operator") not in _OPERATORS:
            return f"an expression has a key, and an operator of {', '.join(_OPERATORS)}"
    return ""


def _holds(expression: Node, labels: Mapping[str, str]) -> bool:
    key, operator = str(expression.text("key")), expression.text("operator")
    values = expression.child("values")
    listed = [item.value for item in values.items()] if values is not None else []
    if operator == "In":
        return labels.get(key) in listed
    if operator == "NotIn":
        return labels.get(key) not in listed
    return (key in labels) == (operator == "Exists")
