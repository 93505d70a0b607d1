"""From the spec of a Kubernetes resource to that of App Mesh's API.

Rules kept here (appmesh.md §4.2):
- S1 `…Ref` or `…ARN`, exactly one, becomes the name; an ARN is one of the same mesh and of the right kind.
- S2 `certificateARN`, `certificateAuthorityARNs` and `meshServiceDiscovery` have another spelling in the API.
- S3 What is Kubernetes' own (selectors, `awsName`, what the controller fills in) is left out.
- S4 The services of a node's backend groups are backends without a client policy; `*` is every service of a namespace.
- S5 A key in the API's spelling where Kubernetes has another is an error: Kubernetes would have dropped it.
- S6 `mode: STRICT` in a client policy, which Kubernetes drops and published manifests carry, is ignored with a warning
  where it says no more than `enforce` does.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from meshca.mesh.arn import parse_arn
from meshca.mesh.model import VIRTUAL_NODE, VIRTUAL_ROUTER, VIRTUAL_SERVICE
from meshca.mesh.resource import BACKEND_GROUP, ResourceId, default_name
from meshca.mesh.tree import Member, Node, Report, Subject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meshca.mesh.resource import Resource

_OWN_KEYS = {
    "awsName",
    "meshRef",
    "meshOwner",
    "namespaceSelector",
    "gatewayRouteSelector",
    "podSelector",
    "virtualGatewayRef",
    "backendGroups",
    "routes",
}
_RENAMED = {
    "certificateARN": "certificateArn",
    "certificateAuthorityARNs": "certificateAuthorityArns",
    "meshServiceDiscovery": "serviceDiscovery",
}
_REFERENCES = {
    # the key above: the reference and the ARN, what they lead to, and the API's key
    "virtualService": ("virtualService", "VirtualService", VIRTUAL_SERVICE, "virtualServiceName"),
    "virtualNode": ("virtualNode", "VirtualNode", VIRTUAL_NODE, "virtualNodeName"),
    "virtualRouter": ("virtualRouter", "VirtualRouter", VIRTUAL_ROUTER, "virtualRouterName"),
    "weightedTargets": ("virtualNode", "VirtualNode", VIRTUAL_NODE, "virtualNode"),
}
_UNRESOLVED = "unresolved"
MOST_GROUPED = 20_000
"""Backends that the groups of a run add; a star on each node would otherwise add their product."""


class Resources:
    """All resources of a run by what they are known by."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self.by_id = {resource.id: resource for resource in resources}
        self.services: dict[str, list[str]] = defaultdict(list)
        for resource in self.by_id.values():
            if resource.id.kind == "VirtualService":
                self.services[resource.id.namespace].append(resource.aws_name)
        self.grouped = 0
        """Backends that groups have added so far."""


class Crd:
    """The spec of one resource, seen among all resources of a run."""

    def __init__(self, resources: Resources, mesh: str, resource: Resource, report: Report) -> None:
        self._all = resources
        self._resources = resources.by_id
        self._mesh = mesh
        self._resource = resource
        self._report = report

    def spec(self) -> Node:
        """Return the spec in the API's form."""
        written = self._resource.spec
        kept = {key: member for key, member in written.members().items() if key not in _OWN_KEYS}
        spec = self._converted(Node(written.offset, kept), "", "spec")
        groups = written.child("backendGroups")
        if groups is not None and self._resource.id.kind == "VirtualNode":
            self._add_groups(spec, groups)
        return spec

    def route(self, item: Node) -> Node:
        """Return the spec of a route that is written inside its router."""
        kept = {key: member for key, member in item.members().items() if key != "name"}
        return self._converted(Node(item.offset, kept), "", f"spec.routes.{item.text('name')}")

    def _converted(self, node: Node, above: str, field: str) -> Node:
        """Return a part of the spec in the API's form: what stands under the key above, at a field's path."""
        if isinstance(node.value, list):
            items = enumerate(node.value)
            return Node(node.offset, [self._converted(item, above, f"{field}[{index}]") for index, item in items])
        if not isinstance(node.value, dict):
            return node
        members = dict(node.value)
        if above in _REFERENCES:
            members = self._resolved(node, above, field)
        found: dict[str, Member] = {}
        for key, member in members.items():
            if key in _RENAMED.values() and (key != "serviceDiscovery" or self._resource.id.kind == "Mesh"):
                own = next(own for own, api in _RENAMED.items() if api == key)
                self._error(member.offset, f"{field}.{key}", f"Kubernetes spells {key!r} {own!r} here")
            else:
                inner = self._without_mode(member.node, field) if key == "clientPolicy" else member.node
                found[_RENAMED.get(key, key)] = Member(member.offset, self._converted(inner, key, f"{field}.{key}"))
        return Node(node.offset, found)

    def _without_mode(self, policy: Node, field: str) -> Node:
        """S6."""
        tls = policy.child("tls")
        enforce = tls.child("enforce") if tls is not None else None
        if tls is None or tls.text("mode") != "STRICT" or (enforce is not None and enforce.value is not True):
            return policy
        rule = "Kubernetes knows no key 'mode' in a client policy; it is ignored, and `enforce` says the same"
        about = Subject(str(self._resource.id), f"{field}.clientPolicy.tls.mode")
        self._report.add("warning", tls.place_of("mode"), rule, about)
        kept = {key: member for key, member in tls.members().items() if key != "mode"}
        above = policy.members()["tls"].offset
        return Node(policy.offset, {**policy.members(), "tls": Member(above, Node(tls.offset, kept))})

    def _resolved(self, node: Node, above: str, field: str) -> dict[str, Member]:
        """S1."""
        stem, crd, kind, key = _REFERENCES[above]
        members = dict(node.members())
        reference, arn = members.pop(f"{stem}Ref", None), members.pop(f"{stem}ARN", None)
        if key in members:
            self._error(members.pop(key).offset, f"{field}.{key}", f"Kubernetes spells {key!r} '{stem}Ref' here")
        if (reference is None) == (arn is None):
            self._error(node.offset, field, f"exactly one of {stem}Ref and {stem}ARN is needed")
            named = Member(node.offset, Node(node.offset, _UNRESOLVED))
        elif reference is not None:
            name = self._name_of(crd, reference.node, f"{field}.{stem}Ref")
            named = Member(reference.offset, Node(reference.node.offset, name))
        else:
            assert arn is not None  # noqa: S101 - exactly one is there
            named = Member(arn.offset, Node(arn.node.offset, self._name_in(kind, arn.node, f"{field}.{stem}ARN")))
        return {key: named, **members}

    def _name_of(self, crd: str, reference: Node, field: str) -> str:
        """K2: return the App Mesh name of what a reference leads to."""
        name, namespace = reference.text("name"), reference.child("namespace")
        if name is None or (namespace is not None and not isinstance(namespace.value, str | None)):
            self._error(reference.offset, field, "a reference has a name, and perhaps a namespace, both text")
            return _UNRESOLVED
        for key, member in reference.members().items():
            if key not in {"name", "namespace", "uid"}:
                rule = f"a reference knows no key {key!r}; it is ignored"
                self._report.add("warning", member.offset, rule, Subject(str(self._resource.id), field))
        return self._aws_name(ResourceId(crd, reference.text("namespace") or self._resource.id.namespace, name))

    def _aws_name(self, target: ResourceId) -> str:
        found = self._resources.get(target)
        return default_name(target) if found is None else found.aws_name

    def _name_in(self, kind: str, arn: Node, field: str) -> str:
        """Return the name in an ARN."""
        found = parse_arn(arn.value) if isinstance(arn.value, str) else None
        rule = ""
        if found is None or found.kind != kind or found.rest:
            rule = f"an ARN here must name a {kind}: arn:…:mesh/MESH/{kind}/NAME"
        elif found.mesh != self._mesh:
            rule = f"the ARN is of mesh {found.mesh}, this is of mesh {self._mesh}"
        if rule or found is None:
            self._error(arn.offset, field, rule, str(arn.plain()))
            return _UNRESOLVED
        return found.name

    def _add_groups(self, spec: Node, groups: Node) -> None:
        """S4."""
        backends = spec.child("backends")
        listed = list(backends.items()) if backends is not None else []
        services = [item.child("virtualService") for item in listed]
        names = {service.text("virtualServiceName") for service in services if service is not None}
        for item in groups.items():
            for name in self._services_of(item):
                if name in names:
                    continue
                self._all.grouped += 1
                if self._all.grouped > MOST_GROUPED:
                    rule = f"backend groups add more than {MOST_GROUPED} backends"
                    self._error(item.offset, "spec.backendGroups", rule)
                    return
                names.add(name)
                listed.append(_backend(name, item.offset))
        spec.members()["backends"] = Member(
            spec.place_of("backends") if backends is not None else groups.offset, Node(groups.offset, [*listed])
        )

    def _services_of(self, item: Node) -> Iterator[str]:
        name = item.text("name") or ""
        namespace = item.text("namespace") or self._resource.id.namespace
        if name == "*":
            yield from self._all.services[namespace]
            return
        group = self._resources.get(ResourceId(BACKEND_GROUP, namespace, name))
        if group is None:
            rule = f"the backend group {namespace}/{name} is not in the input"
            self._error(item.offset, "spec.backendGroups", rule)
            return
        services = group.spec.child("virtualservices")
        for reference in services.items() if services is not None else []:
            target = ResourceId(
                "VirtualService", reference.text("namespace") or group.id.namespace, reference.text("name") or ""
            )
            yield self._aws_name(target)

    def _error(self, offset: int, field: str, rule: str, value: str = "") -> None:
        self._report.error(offset, rule, Subject(str(self._resource.id), field, value))


def _backend(name: str, offset: int) -> Node:
    service = Node(offset, {"virtualServiceName": Member(offset, Node(offset, name))})
    return Node(offset, {"virtualService": Member(offset, service)})
