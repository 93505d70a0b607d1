"""CloudFormation's conditions.

Rules kept here:
- C1 Fn::Equals, Fn::Not, Fn::And, Fn::Or and references to other conditions. Equals compares text, as CloudFormation.
- C2 Each condition is worked out once, when a resource of App Mesh needs it, and never depends on itself.
- C3 What depends on a value that is not there does not hold; why has been reported, and the run is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshca.mesh.evaluation import EvaluationError
from meshca.mesh.intrinsics import function_of
from meshca.mesh.tree import Node, Unknown

if TYPE_CHECKING:
    from meshca.mesh.intrinsics import Evaluator


class Conditions:
    """The conditions of a template."""

    def __init__(self, written: Node | None, evaluator: Evaluator) -> None:
        self._written = written
        self._evaluator = evaluator
        self._known: dict[str, bool] = {}
        self._open: set[str] = set()

    def holds(self, name: str, at: Node, depth: int) -> bool:
        """Return whether a condition holds.

        Raises:
            EvaluationError: there is no such condition, or it cannot be worked out.
        """
        if name in self._known and name not in self._open:
            return self._known[name]
        written = self._written.child(name) if self._written is not None else None
        if written is None:
            raise EvaluationError(at.offset, "no condition of the template", name)
        if name in self._open:
            raise EvaluationError(written.offset, "a condition depends on itself", name)
        self._open.add(name)
        self._known[name] = False
        try:
            self._known[name] = self._is_true(written, depth + 1)
        finally:
            self._open.discard(name)
        return self._known[name]

    def _is_true(self, node: Node, depth: int) -> bool:
        name, argument = function_of(node)
        condition = node.text("Condition") if isinstance(node.value, dict) and len(node.value) == 1 else None
        if name == "Condition":
            condition = str(argument.value)
        if condition is not None:
            return self.holds(condition, node, depth)
        if depth > 64:
            raise EvaluationError(node.offset, "conditions are nested deeper than 64 levels")
        if name == "Fn::Equals" and len(argument.items()) == 2:
            texts = self._evaluator.texts(argument.items(), depth)
            return not isinstance(texts, Unknown) and texts[0] == texts[1]
        if name == "Fn::Not" and len(argument.items()) == 1:
            return not self._is_true(argument.items()[0], depth + 1)
        if name in {"Fn::And", "Fn::Or"} and 2 <= len(argument.items()) <= 10:
            parts = [self._is_true(item, depth + 1) for item in argument.items()]
            return all(parts) if name == "Fn::And" else any(parts)
        rule = "a condition is Fn::Equals of two, Fn::Not of one, Fn::And or Fn::Or of two to ten, or Condition"
        raise EvaluationError(node.offset, rule, name)
