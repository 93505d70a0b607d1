"""IPv4 and IPv6: what App Mesh's `ipPreference` means for addresses.

Rules kept here:
- A node's own preference goes before the mesh's.
- Where any is given but IPv4 alone, what listened on 0.0.0.0 listens on ``::`` and takes both families; an application
  is asked on ``::1`` where IPv6 is preferred. An operator's own choice of addresses (placement) is left alone.
"""

from __future__ import annotations

import functools
import ipaddress

from meshca.envoy.placement import Placement
from meshca.mesh.forest import MeshSet
from meshca.mesh.model import Caller, VirtualNode

IPV4_ONLY, IPV6_ONLY = "IPv4_ONLY", "IPv6_ONLY"
_IPV6 = ("IPv6_PREFERRED", IPV6_ONLY)


def of_mesh(mesh_set: MeshSet, mesh: str) -> str | None:
    """Return the preference of a mesh."""
    discovery = mesh_set.mesh(mesh).spec.service_discovery
    return discovery.ip_preference if discovery else None


def own(caller: Caller) -> str | None:
    """Return what a node prefers itself; a gateway has nothing to prefer."""
    found = caller.spec.service_discovery if isinstance(caller, VirtualNode) else None
    chosen = (found.dns or found.aws_cloud_map) if found is not None else None
    return chosen.ip_preference if chosen else None


def of_node(mesh_set: MeshSet, caller: Caller) -> str | None:
    """Return the preference that holds for a node or gateway."""
    return own(caller) or of_mesh(mesh_set, caller.mesh)


def any_host(host: str, preference: str | None) -> str:
    """Return where to listen."""
    return "::" if preference not in {None, IPV4_ONLY} and host == Placement().ingress_host else host


def app_host(host: str, preference: str | None) -> str:
    """Return where the application is."""
    return "::1" if preference in _IPV6 and host == Placement().app_host else host


@functools.lru_cache(maxsize=8192)
def version(host: str) -> int | None:
    """Return 4 or 6 for an IP address, None for a name."""
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None
