"""The kinds of objects as the command line names them, and how a NAME names its parent."""

from __future__ import annotations

KINDS = ("mesh", "virtualNode", "virtualService", "virtualRouter", "route", "virtualGateway", "gatewayRoute")
PARENTS = {"route": "ROUTER", "gatewayRoute": "GATEWAY"}
PARENT_FIELDS = {"route": "virtualRouterName", "gatewayRoute": "virtualGatewayName"}


def split_name(kind: str, name: str) -> tuple[str, str]:
    """Split NAME into parent and name; only routes (ROUTER/NAME) and gateway routes (GATEWAY/NAME) have one."""
    if kind not in PARENTS:
        return "", name
    parent, _, child = name.rpartition("/")
    return parent, child
