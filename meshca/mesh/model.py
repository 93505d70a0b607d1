"""App Mesh objects: an envelope (mesh, name, parent) around a spec.

Rules kept here:
- An object is known by its key: mesh, kind, parent, name. The parent is the router of a route or the gateway of a
  gateway route, and empty for all else.
- Names of meshes, nodes and gateways become path segments of SPIFFE IDs and keep their rule (SPIFFE-ID §2.2); other
  names hold no slash, space or control character.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

from meshca.errors import InvalidInputError
from meshca.mesh.spec.endpoints import (
    MeshSpec,
    VirtualGatewaySpec,
    VirtualNodeSpec,
    VirtualRouterSpec,
    VirtualServiceSpec,
)
from meshca.mesh.spec.gateway_routes import GatewayRouteSpec
from meshca.mesh.spec.routes import RouteSpec

Spec: TypeAlias = (
    MeshSpec
    | VirtualNodeSpec
    | VirtualServiceSpec
    | VirtualRouterSpec
    | RouteSpec
    | VirtualGatewaySpec
    | GatewayRouteSpec
)
SpecT = TypeVar("SpecT", bound=Spec)

MESH = "mesh"
VIRTUAL_NODE = "virtualNode"
VIRTUAL_SERVICE = "virtualService"
VIRTUAL_ROUTER = "virtualRouter"
ROUTE = "route"
VIRTUAL_GATEWAY = "virtualGateway"
GATEWAY_ROUTE = "gatewayRoute"
KINDS = (MESH, VIRTUAL_NODE, VIRTUAL_SERVICE, VIRTUAL_ROUTER, ROUTE, VIRTUAL_GATEWAY, GATEWAY_ROUTE)

PARENT_KINDS = {ROUTE: VIRTUAL_ROUTER, GATEWAY_ROUTE: VIRTUAL_GATEWAY}
"""The kinds that live inside another object, and what that is."""

IDENTITY_KINDS = (VIRTUAL_NODE, VIRTUAL_GATEWAY)
"""The kinds that hold an identity."""

_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_PLAIN = re.compile(r"[^\s/\x00-\x1f\x7f-\x9f]+")
_LONGEST_NAME = 255
_LONGEST_HOST_NAME = 1024


class ObjectNameError(InvalidInputError):
    """A name that no App Mesh object may have here."""


class ObjectKey(NamedTuple):
    """What an object is known by; a tuple, since every index of a mesh hashes and compares these."""

    mesh: str
    kind: str
    parent: str
    name: str

    def __str__(self) -> str:
        if self.kind == MESH:
            return f"mesh/{self.name}"
        inner = f"{PARENT_KINDS[self.kind]}/{self.parent}/" if self.parent else ""
        return f"mesh/{self.mesh}/{inner}{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag of an object; kept, not used."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Envelope(Generic[SpecT]):
    """What every App Mesh object has."""

    kind: ClassVar[str]

    mesh: str
    name: str
    spec: SpecT
    parent: str = ""
    owner: str = ""
    tags: tuple[Tag, ...] = ()

    @property
    def key(self) -> ObjectKey:
        """Return what the object is known by."""
        return ObjectKey(self.mesh, self.kind, self.parent, self.name)


@dataclass(frozen=True, slots=True)
class Mesh(Envelope[MeshSpec]):
    """A mesh; `mesh` and `name` are the same."""

    kind: ClassVar[str] = MESH


@dataclass(frozen=True, slots=True)
class VirtualNode(Envelope[VirtualNodeSpec]):
    """A workload with an identity."""

    kind: ClassVar[str] = VIRTUAL_NODE


@dataclass(frozen=True, slots=True)
class VirtualService(Envelope[VirtualServiceSpec]):
    """A name that clients call."""

    kind: ClassVar[str] = VIRTUAL_SERVICE


@dataclass(frozen=True, slots=True)
class VirtualRouter(Envelope[VirtualRouterSpec]):
    """What spreads the calls of a virtual service."""

    kind: ClassVar[str] = VIRTUAL_ROUTER


@dataclass(frozen=True, slots=True)
class Route(Envelope[RouteSpec]):
    """A rule of a virtual router, its parent."""

    kind: ClassVar[str] = ROUTE


@dataclass(frozen=True, slots=True)
class VirtualGateway(Envelope[VirtualGatewaySpec]):
    """A way into the mesh, with an identity."""

    kind: ClassVar[str] = VIRTUAL_GATEWAY


@dataclass(frozen=True, slots=True)
class GatewayRoute(Envelope[GatewayRouteSpec]):
    """A rule of a virtual gateway, its parent."""

    kind: ClassVar[str] = GATEWAY_ROUTE


MeshObject: TypeAlias = Mesh | VirtualNode | VirtualService | VirtualRouter | Route | VirtualGateway | GatewayRoute
"""An App Mesh object of any kind."""

Caller: TypeAlias = VirtualNode | VirtualGateway
"""What holds an identity and calls services."""

CLASSES: dict[str, type[MeshObject]] = {
    MESH: Mesh,
    VIRTUAL_NODE: VirtualNode,
    VIRTUAL_SERVICE: VirtualService,
    VIRTUAL_ROUTER: VirtualRouter,
    ROUTE: Route,
    VIRTUAL_GATEWAY: VirtualGateway,
    GATEWAY_ROUTE: GatewayRoute,
}
SPECS: dict[str, type[Spec]] = {
    MESH: MeshSpec,
    VIRTUAL_NODE: VirtualNodeSpec,
    VIRTUAL_SERVICE: VirtualServiceSpec,
    VIRTUAL_ROUTER: VirtualRouterSpec,
    ROUTE: RouteSpec,
    VIRTUAL_GATEWAY: VirtualGatewaySpec,
    GATEWAY_ROUTE: GatewayRouteSpec,
}


def require_name(kind: str, name: str) -> None:
    """Raise ``ObjectNameError`` unless an object of this kind may have this name."""
    longest = _LONGEST_HOST_NAME if kind == VIRTUAL_SERVICE else _LONGEST_NAME
    if not 1 <= len(name) <= longest:
        raise ObjectNameError(f"a {kind} name has 1 to {longest} characters", value=name)
    if kind == MESH or kind in IDENTITY_KINDS:
        _require_path_segment(kind, name)
    elif not _PLAIN.fullmatch(name):
        raise ObjectNameError(f"a {kind} name holds no slash, space or control character", value=name)


def _require_path_segment(kind: str, name: str) -> None:
    rule = f"a {kind} name becomes a path segment of a SPIFFE ID: only A-Z a-z 0-9 . _ - (SPIFFE-ID §2.2)"
    if not _SEGMENT.fullmatch(name):
        raise ObjectNameError(rule, value=name)
    if name in {".", ".."}:
        raise ObjectNameError(f"{rule}, and neither '.' nor '..'", value=name)
