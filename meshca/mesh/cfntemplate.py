"""A CloudFormation template: parameters, maps, conditions and the names of its App Mesh resources.

Rules kept here:
- T1 Only what a resource of App Mesh leads to is worked out; the rest of a template may be anything.
- T2 Pseudo-parameters that a stack would fill (`AWS::StackName`, `AWS::Region`, `AWS::AccountId`) are given like
  parameters; partition and URL suffix have AWS's usual values.
- T3 What another resource would give (`Ref Certificate`, `Fn::GetAtt Zone.Name`) can be given under that name.
- T4 App Mesh resources are known by name: an ARN names mesh, kind and name, and is complete where region and account
  are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshca.mesh.conditions import Conditions
from meshca.mesh.evaluation import EvaluationError
from meshca.mesh.intrinsics import Evaluator
from meshca.mesh.model import KINDS, MESH, PARENT_KINDS
from meshca.mesh.parameters import parameter_value
from meshca.mesh.tree import UNKNOWN, Node, Report, Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "AWS::AppMesh::"
_PSEUDO = {"AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com"}
_STACK_PSEUDO = ("AWS::StackName", "AWS::Region", "AWS::AccountId", "AWS::StackId", "AWS::NotificationARNs")


def pascal(key: str) -> str:
    """Return App Mesh's key as CloudFormation spells it."""
    special = {"tls", "acm", "sds", "dns", "http", "http2", "grpc", "tcp"}
    if key in special:
        return key.upper()
    return "AWSCloudMap" if key == "awsCloudMap" else key[:1].upper() + key[1:]


KIND_OF_TYPE = {f"{PREFIX}{pascal(kind)}": kind for kind in KINDS}


class Template:
    """What the functions of a template ask of it."""

    def __init__(self, document: Node, values: Mapping[str, str], report: Report) -> None:
        self._document = document
        self._values = values
        self.evaluator = Evaluator(self, report)
        self._conditions = Conditions(document.child("Conditions"), self.evaluator)
        self._names: dict[tuple[str, str], Node] = {}
        self._open: set[tuple[str, str]] = set()
        self._missing: set[str] = set()

    def resource(self, name: str) -> Node | None:
        """Return a resource by its logical ID."""
        resources = self._document.child("Resources")
        return resources.child(name) if resources is not None else None

    def kind(self, resource: Node) -> str | None:
        """Return the kind of App Mesh object that a resource is."""
        return KIND_OF_TYPE.get(resource.text("Type") or "")

    def exists(self, resource: Node, depth: int = 0) -> bool:
        """Return whether the condition of a resource holds, if it has one."""
        condition = resource.child("Condition")
        if condition is None:
            return True
        return self.condition(str(condition.value), condition, depth)

    def reference(self, name: str, at: Node, depth: int) -> Node:
        """Return what Ref stands for: a parameter, a pseudo-parameter or an App Mesh resource's ARN."""
        parameters = self._document.child("Parameters")
        parameter = parameters.child(name) if parameters is not None else None
        if parameter is not None:
            found = parameter_value(name, parameter, self._values.get(name), at)
            return found if found is not None else self._not_given(name, at, "the parameter")
        if name in self._values:
            return Node(at.offset, self._values[name])
        if name in _PSEUDO:
            return Node(at.offset, _PSEUDO[name])
        if name in _STACK_PSEUDO:
            return self._not_given(name, at, "the pseudo-parameter")
        resource = self.resource(name)
        if resource is None:
            raise EvaluationError(at.offset, "neither a parameter nor a resource of the template", name)
        if self.kind(resource) is None:
            return self._not_given(name, at, "the value of the resource")
        return self.attribute(name, "Arn", at, depth)

    def attribute(self, resource: str, name: str, at: Node, depth: int) -> Node:
        """Return what Fn::GetAtt stands for: the name or ARN of an App Mesh resource."""
        given = self._values.get(f"{resource}.{name}")
        if given is not None:
            return Node(at.offset, given)
        found = self.resource(resource)
        if found is None:
            raise EvaluationError(at.offset, "no resource of the template", resource)
        kind = self.kind(found)
        if kind is None:
            return self._not_given(f"{resource}.{name}", at, "the attribute")
        if not self.exists(found, depth):
            raise EvaluationError(at.offset, "this resource is not created: its condition does not hold", resource)
        if name == "Arn":
            return Node(at.offset, self._arn(resource, kind, depth))
        own = f"{pascal(kind)}Name"
        key = "MeshOwner" if name == "ResourceOwner" else name
        value = self.name(resource, key, depth) if key in _names_of(kind) else None
        if value is None and key == own:
            value = Node(at.offset, resource)
        return (
            self._not_given(f"{resource}.{name}", at, "the attribute")
            if value is None
            else Node(at.offset, value.value)
        )

    def condition(self, name: str, at: Node, depth: int) -> bool:
        """Return whether a condition holds."""
        return self._conditions.holds(name, at, depth)

    def mapped(self, keys: list[str], at: Node) -> Node:
        """Return what Fn::FindInMap stands for."""
        found = self._document.child("Mappings")
        for key in keys:
            found = found.child(key) if found is not None else None
        if found is None or isinstance(found.value, dict):
            raise EvaluationError(at.offset, "the template's Mappings have no such entry", ".".join(keys))
        return found

    def name(self, logical_id: str, key: str, depth: int = 0) -> Node | None:
        """Return a name among the properties of a resource, or None where it has none.

        Raises:
            EvaluationError: it cannot be worked out, or depends on itself.
        """
        asked = (logical_id, key)
        if asked in self._names:
            return self._names[asked]
        resource = self.resource(logical_id)
        properties = resource.child("Properties") if resource is not None else None
        written = properties.child(key) if properties is not None else None
        if written is None:
            return None
        if asked in self._open:
            raise EvaluationError(written.offset, f"{key} of {logical_id} depends on itself", logical_id)
        self._open.add(asked)
        try:
            found = self.evaluator.worked_out(written, depth + 1)
        finally:
            self._open.discard(asked)
        if found is not None:
            self._names[asked] = found
        return found

    def _arn(self, logical_id: str, kind: str, depth: int) -> str | Unknown:
        """T4."""
        kinds = dict.fromkeys((MESH, PARENT_KINDS.get(kind, kind), kind))
        path: list[str] = []
        for part in kinds:
            key = f"{pascal(part)}Name"
            named = self.name(logical_id, key, depth)
            name = named.value if named is not None else (logical_id if part == kind else UNKNOWN)
            if not isinstance(name, str):
                return UNKNOWN
            path += [part, name]
        region, account = (self._values.get(f"AWS::{part}", "") for part in ("Region", "AccountId"))
        return f"arn:aws:appmesh:{region}:{account}:{'/'.join(path)}"

    def _not_given(self, name: str, at: Node, what: str) -> Node:
        """N3: report once that a value has to be given."""
        if name in self._missing:
            return Node(at.offset, UNKNOWN)
        self._missing.add(name)
        remedy = f"give --var {name}=VALUE, or --parameters FILE"
        raise EvaluationError(at.offset, f"{what} {name} has no value", name, remedy)


def _names_of(kind: str) -> set[str]:
    own = {f"{pascal(part)}Name" for part in (MESH, kind, PARENT_KINDS.get(kind, kind))}
    return {*own, "MeshOwner"}
