"""CloudFormation's intrinsic functions, worked out where a resource of App Mesh needs them.

Rules kept here:
- N1 Ref, Fn::GetAtt, Fn::Sub, Fn::Join, Fn::If and Fn::FindInMap, written in full or as short tags; any other is an
  error that names it.
- N2 A value keeps the place it came from: a default, an entry of a map, the branch of a condition; what is put together
  has the place of its function.
- N3 What cannot be worked out is reported once and becomes UNKNOWN; reading goes on.
- N4 Work is bounded: steps, depth, and the length of what is put together. A value never depends on itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from meshca.mesh.evaluation import EvaluationError
from meshca.mesh.parameters import text_of
from meshca.mesh.tree import UNKNOWN, Member, Node, Report, Subject, Unknown, field_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MOST_STEPS = 200_000
_DEEPEST = 100
_LONGEST = 64 * 1024
_MOST_TEXT = 8 * 1024 * 1024
_PLACEHOLDER = re.compile(r"\$\{(?P<literal>!?)(?P<name>[^{}$]{0,300})\}")
_NO_VALUE = "AWS::NoValue"
_REMEDY = "write the value in its place, or make it a parameter"


class Template(Protocol):
    """What functions ask of the template around them."""

    def reference(self, name: str, at: Node, depth: int) -> Node:
        """Return what Ref stands for."""

    def attribute(self, resource: str, name: str, at: Node, depth: int) -> Node:
        """Return what Fn::GetAtt stands for."""

    def condition(self, name: str, at: Node, depth: int) -> bool:
        """Return whether a condition holds."""

    def mapped(self, keys: list[str], at: Node) -> Node:
        """Return what Fn::FindInMap stands for."""


class Evaluator:
    """Works out values, within bounds."""

    def __init__(self, template: Template, report: Report) -> None:
        self._template = template
        self._report = report
        self.subject = ""
        """What is being worked out, for findings: a resource."""
        self._path: list[str | int] = []
        self._steps = 0
        self._text = 0
        self._functions: dict[str, Callable[[Node, Node, int], Node | None]] = {
            "Ref": self._ref,
            "Fn::GetAtt": self._get_att,
            "Fn::Sub": self._sub,
            "Fn::Join": self._join,
            "Fn::If": self._if,
            "Fn::FindInMap": self._find_in_map,
        }

    def value(self, node: Node, depth: int = 0) -> Node | None:
        """Return a value with its functions worked out, or None for no value; what fails is reported.

        Raises:
            TooManyErrorsError: enough has been reported.
        """
        try:
            return self.worked_out(node, depth)
        except EvaluationError as error:
            self.report(error)
            return Node(node.offset, UNKNOWN)

    def report(self, error: EvaluationError, *path: str | int) -> None:
        """Report what could not be worked out, and where."""
        field = field_of((*self._path, *path), "Properties")
        self._report.error(error.offset, error.rule, Subject(self.subject, field, error.value, error.remedy))

    def worked_out(self, node: Node, depth: int) -> Node | None:
        """Return a value with its functions worked out, or None for no value.

        Raises:
            EvaluationError: the value as a whole cannot be worked out; what fails inside is reported.
        """
        self._count(node)
        if depth > _DEEPEST:
            raise EvaluationError(node.offset, f"functions are nested deeper than {_DEEPEST} levels")
        name, argument = function_of(node)
        if name:
            function = self._functions.get(name)
            if function is None:
                raise EvaluationError(node.offset, f"the function {name} is not read here", name, _REMEDY)
            return function(argument, node, depth + 1)
        if isinstance(node.value, dict):
            return self._mapping(node, depth)
        if isinstance(node.value, list):
            items = [self._inside(index, item, depth) for index, item in enumerate(node.value)]
            return Node(node.offset, [item for item in items if item is not None])
        return node

    def _count(self, node: Node) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise EvaluationError(node.offset, f"working out the template takes more than {_MOST_STEPS} steps")

    def text(self, node: Node, depth: int) -> str | Unknown:
        """Return a value that is text, or may be written as text.

        Raises:
            EvaluationError: it is a list or a mapping, or cannot be worked out.
        """
        found = self.worked_out(node, depth)
        value = found.value if found is not None else None
        if isinstance(value, Unknown):
            return value
        if isinstance(value, str | int | float):
            return text_of(value)
        raise EvaluationError(node.offset, "text is needed here, not a list or a mapping")

    def texts(self, nodes: list[Node], depth: int) -> list[str] | Unknown:
        """Return values that are text, or UNKNOWN where one is.

        Raises:
            EvaluationError: one is no text, or cannot be worked out.
        """
        found = [self.text(node, depth) for node in nodes]
        known = [value for value in found if isinstance(value, str)]
        return known if len(known) == len(found) else UNKNOWN

    def _mapping(self, node: Node, depth: int) -> Node:
        members: dict[str, Member] = {}
        for key, member in node.members().items():
            if is_function(key):
                raise EvaluationError(member.offset, f"{key} stands alone in its mapping", key)
            found = self._inside(key, member.node, depth)
            if found is not None:
                # N2: what was written right here keeps the place of its key, as in the other forms.
                is_here = found.offset == member.node.offset
                members[key] = Member(member.offset if is_here else found.offset, found)
        return Node(node.offset, members)

    def _inside(self, step: str | int, node: Node, depth: int) -> Node | None:
        self._path.append(step)
        try:
            return self.value(node, depth + 1)
        finally:
            self._path.pop()

    def _ref(self, argument: Node, node: Node, depth: int) -> Node | None:
        if not isinstance(argument.value, str):
            raise EvaluationError(argument.offset, "Ref takes a name")
        if argument.value == _NO_VALUE:
            return None
        return self._template.reference(argument.value, node, depth)

    def _get_att(self, argument: Node, node: Node, depth: int) -> Node:
        if isinstance(argument.value, str):
            resource, _, attribute = argument.value.partition(".")
        else:
            parts = self.texts(argument.items(), depth)
            if isinstance(parts, Unknown):
                return Node(node.offset, UNKNOWN)
            resource, attribute = parts if len(parts) == 2 else ("", "")
        if not (resource and attribute):
            raise EvaluationError(node.offset, "Fn::GetAtt takes a resource and an attribute")
        return self._template.attribute(resource, attribute, node, depth)

    def _sub(self, argument: Node, node: Node, depth: int) -> Node:
        template, own = argument, Node(argument.offset, {})
        if isinstance(argument.value, list):
            template, own = argument.value if len(argument.value) == 2 else (argument, argument)
        if not isinstance(template.value, str) or not isinstance(own.value, dict):
            raise EvaluationError(argument.offset, "Fn::Sub takes text, or text and a mapping of its variables")
        if len(template.value) > _LONGEST:
            raise EvaluationError(argument.offset, f"the text of Fn::Sub has at most {_LONGEST} characters")
        pieces: list[str | Unknown] = []
        at = 0
        for match in _PLACEHOLDER.finditer(template.value):
            pieces += [template.value[at : match.start()], self._filled(match, own, node, depth)]
            at = match.end()
        return self._joined("", [*pieces, template.value[at:]], node)

    def _filled(self, match: re.Match[str], own: Node, node: Node, depth: int) -> str | Unknown:
        self._count(node)
        name = match["name"].strip()
        if match["literal"]:
            return f"${{{match['name']}}}"
        variable = own.child(name)
        if variable is not None:
            return self.text(variable, depth)
        resource, dot, attribute = name.partition(".")
        if dot:
            found = self._template.attribute(resource, attribute, node, depth)
        else:
            found = self._template.reference(name, node, depth)
        return self.text(found, depth)

    def _join(self, argument: Node, node: Node, depth: int) -> Node:
        if len(argument.items()) != 2 or not isinstance(argument.items()[0].value, str):
            raise EvaluationError(node.offset, "Fn::Join takes a separator and a list")
        separator, listed = argument.items()
        found = self.worked_out(listed, depth)
        if found is None or not isinstance(found.value, list | Unknown):
            raise EvaluationError(listed.offset, "Fn::Join takes a separator and a list")
        texts = self.texts(found.items(), depth) if isinstance(found.value, list) else UNKNOWN
        return self._joined(str(separator.value), [UNKNOWN] if isinstance(texts, Unknown) else texts, node)

    def _joined(self, separator: str, pieces: Sequence[str | Unknown], node: Node) -> Node:
        known = [piece for piece in pieces if isinstance(piece, str)]
        if len(known) < len(pieces):
            return Node(node.offset, UNKNOWN)
        length = sum(map(len, known)) + len(separator) * max(len(known) - 1, 0)
        self._text += length
        if length > _LONGEST or self._text > _MOST_TEXT:
            rule = f"what functions put together has at most {_LONGEST} characters, and {_MOST_TEXT} in all"
            raise EvaluationError(node.offset, rule)
        return Node(node.offset, separator.join(known))

    def _if(self, argument: Node, node: Node, depth: int) -> Node | None:
        if len(argument.items()) != 3 or not isinstance(argument.items()[0].value, str):
            raise EvaluationError(node.offset, "Fn::If takes the name of a condition and two values")
        name, then, otherwise = argument.items()
        return self.worked_out(then if self._template.condition(str(name.value), node, depth) else otherwise, depth)

    def _find_in_map(self, argument: Node, node: Node, depth: int) -> Node:
        if len(argument.items()) != 3:
            raise EvaluationError(node.offset, "Fn::FindInMap takes a map and two keys")
        keys = self.texts(argument.items(), depth)
        return Node(node.offset, UNKNOWN) if isinstance(keys, Unknown) else self._template.mapped(keys, node)


def function_of(node: Node) -> tuple[str, Node]:
    """Return the name and the argument of a function; an empty name where a value is none."""
    if node.tag:
        name = node.tag.removeprefix("!")
        return name if name in {"Ref", "Condition"} else f"Fn::{name}", Node(node.offset, node.value)
    if isinstance(node.value, dict) and len(node.value) == 1:
        key, member = next(iter(node.value.items()))
        if is_function(key):
            return key, member.node
    return "", node


def is_function(key: str) -> bool:
    """Tell whether a key is that of a function."""
    return key == "Ref" or key.startswith("Fn::")
