"""The IDs under ``/meshca/`` that are ours: no registration, spec or CSR may claim one."""

from __future__ import annotations

from meshca.spiffe.id import IdentityError, SpiffeId, TrustDomain

_ROOM = "/meshca"
_NOBODY = f"{_ROOM}/nobody"


def nobody(trust_domain: TrustDomain) -> SpiffeId:
    """Return the ID that is never issued: the SAN of a context that admits nobody."""
    return SpiffeId(trust_domain, _NOBODY)


def is_nobody(spiffe_id: SpiffeId) -> bool:
    """Whether this is the ID that is never issued."""
    return spiffe_id.path == _NOBODY


def server(trust_domain: TrustDomain, replica: str) -> SpiffeId:
    """Return the ID of one replica of the server."""
    return SpiffeId(trust_domain, f"{_ROOM}/server/{_one_segment(replica)}")


def federation(trust_domain: TrustDomain) -> SpiffeId:
    """Return the ID that every replica shows at its bundle endpoint (SPIFFE Federation §5.2.2)."""
    return server(trust_domain, "federation")


def agent(trust_domain: TrustDomain, agent_id: str) -> SpiffeId:
    """Return the ID of a node agent."""
    return SpiffeId(trust_domain, f"{_ROOM}/agent/{_one_segment(agent_id)}")


def admin(trust_domain: TrustDomain, name: str) -> SpiffeId:
    """Return the ID of a remote administrator."""
    return SpiffeId(trust_domain, f"{_ROOM}/admin/{_one_segment(name)}")


def admin_name(spiffe_id: SpiffeId) -> str | None:
    """Return the name of the remote administrator that has this ID, or None."""
    return _name_under("admin", spiffe_id)


def agent_id(spiffe_id: SpiffeId) -> str | None:
    """Return the id of the node agent that has this ID, or None."""
    return _name_under("agent", spiffe_id)


def is_server(spiffe_id: SpiffeId) -> bool:
    """Whether this is the ID of a replica of the server."""
    return _name_under("server", spiffe_id) is not None


def is_reserved(spiffe_id: SpiffeId) -> bool:
    """Whether the ID is ``/meshca`` or lies under it, in whatever trust domain."""
    return spiffe_id.path == _ROOM or spiffe_id.path.startswith(f"{_ROOM}/")


def _one_segment(name: str) -> str:
    # SpiffeId checks everything else about the name; it would take "a/b" as two segments.
    if "/" in name or not name:
        raise IdentityError("the name of one of meshca's own identities is one path segment", value=name)
    return name


def _name_under(room: str, spiffe_id: SpiffeId) -> str | None:
    match spiffe_id.segments:
        case ("meshca", found, name) if found == room:
            return name
    return None
