"""One Kubernetes resource: its names and labels.

Rules kept here (appmesh.md §4.2):
- The App Mesh name is `awsName`, else `<name>` (mesh), `<name>.<namespace>` (virtual service) or `<name>_<namespace>`.
- A mesh and a namespace lie in no namespace; all else in `default` where none is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from meshca.mesh.model import GATEWAY_ROUTE, MESH, VIRTUAL_GATEWAY, VIRTUAL_NODE, VIRTUAL_ROUTER, VIRTUAL_SERVICE
from meshca.mesh.tree import Node, Report, Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUP = "appmesh.k8s.aws"
NAMESPACE = "Namespace"
BACKEND_GROUP = "BackendGroup"
OBJECT_KINDS = {
    "Mesh": MESH,
    "VirtualNode": VIRTUAL_NODE,
    "VirtualService": VIRTUAL_SERVICE,
    "VirtualRouter": VIRTUAL_ROUTER,
    "VirtualGateway": VIRTUAL_GATEWAY,
    "GatewayRoute": GATEWAY_ROUTE,
}
CRDS = (*OBJECT_KINDS, BACKEND_GROUP)
_DEFAULT_NAMESPACE = "default"
_UNSCOPED = {"Mesh", NAMESPACE}


class ResourceId(NamedTuple):
    """What a resource is known by in a cluster."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of App Mesh, or a namespace."""

    id: ResourceId
    labels: Mapping[str, str]
    has_namespace: bool
    document: Node
    spec: Node

    @classmethod
    def read(cls, document: Node, kind: str, report: Report) -> Resource | None:
        """Return the resource that a document describes, or None where it has no name, which is reported."""
        metadata = document.child("metadata") or Node(document.offset, {})
        name, namespace = metadata.text("name"), metadata.text("namespace")
        if not name:
            about = Subject(field="metadata.name", remedy="give it one; `generateName` names nothing yet")
            report.error(document.place_of("metadata"), f"a {kind} needs a name, which is text", about)
            return None
        spec = document.child("spec")
        if spec is None or not isinstance(spec.value, dict):
            spec = Node(document.place_of("spec"), {})
        labels = metadata.child("labels")
        found = {key: member.node.value for key, member in (labels.members() if labels else {}).items()}
        texts = {key: value for key, value in found.items() if isinstance(value, str)}
        scope = "" if kind in _UNSCOPED else namespace or _DEFAULT_NAMESPACE
        return cls(ResourceId(kind, scope, name), texts, namespace is not None, document, spec)

    @property
    def object_kind(self) -> str | None:
        """Return the kind of App Mesh object; None for what is none itself."""
        return OBJECT_KINDS.get(self.id.kind)

    @property
    def aws_name(self) -> str:
        """Return the name in App Mesh."""
        return self.spec.text("awsName") or default_name(self.id)

    @property
    def name_offset(self) -> int:
        """Return where the name stands."""
        if self.spec.child("awsName") is not None:
            return self.spec.place_of("awsName")
        metadata = self.document.child("metadata")
        return metadata.place_of("name") if metadata is not None else self.document.offset


def default_name(resource: ResourceId) -> str:
    """Return the App Mesh name of a resource that gives none."""
    if resource.kind in _UNSCOPED:
        return resource.name
    joint = "." if resource.kind == "VirtualService" else "_"
    return f"{resource.name}{joint}{resource.namespace}"
