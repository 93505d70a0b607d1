"""Specs: apply, get, delete, can, resolve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from meshca.delivery.snapshot import MeshState
from meshca.errors import InvalidInputError, NotFoundError
from meshca.mesh.model import KINDS, MeshObject, ObjectKey
from meshca.mesh.render import canonical_json
from meshca.server.meshes import APPLY, DELETE, Proposal, parse_envelopes, propose
from meshca.server.parts import Parts
from meshca.server.services.calls import Unary
from meshca.v1 import admin_pb2 as pb
from meshca.x509.profiles import SVID


class MeshService:
    """What people do with App Mesh objects."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def calls(self) -> Mapping[str, Unary]:
        """Return the methods by the names of the API."""
        return {
            "Apply": self.apply,
            "Get": self.get,
            "Delete": self.delete,
            "Can": self.can,
            "Resolve": self.resolve,
        }

    async def apply(self, request: Any, actor: str) -> Any:
        """Put objects in force, all or none."""
        if not request.objects:
            raise InvalidInputError("there is no object to apply", field="objects")
        judge = _applying(list(request.objects), prune=request.prune)
        state = self._parts.state
        proposal = await (state.propose(judge) if request.dry_run else state.apply(judge, APPLY, actor))
        return _apply_reply(proposal)

    async def get(self, request: Any, _: str) -> Any:
        """Return the objects that fit."""
        if request.kind and request.kind not in KINDS:
            raise InvalidInputError("no such kind", field="KIND", value=request.kind, remedy=", ".join(KINDS))
        objects = self._mesh.mesh_set.objects
        found = [objects[key] for key in sorted(objects) if _fits(key, request)]
        if request.name and not found:
            raise NotFoundError("there is no such object", field=request.kind, value=request.name)
        return pb.GetReply(objects=[canonical_json(item) for item in found])

    async def delete(self, request: Any, actor: str) -> Any:
        """Remove one object."""
        matching = [key for key in self._mesh.mesh_set.objects if _fits(key, request)]
        if len(matching) != 1:
            several = ", ".join(map(str, matching))
            what = f"several objects fit: {several}" if matching else "there is no such object"
            kind = InvalidInputError if matching else NotFoundError
            raise kind(what, field=request.kind, value=request.name, remedy="see `meshca get`")

        def judge(current: MeshState) -> Proposal:
            return propose(current, current.mesh_set.without(matching[0]), ())

        proposal = await self._parts.state.apply(judge, DELETE, actor)
        return pb.DeleteReply(revision=proposal.state.revision)

    async def can(self, request: Any, _: str) -> Any:
        """Say whether one node may call another."""
        identities = self._mesh.identities
        client, server = identities.resolve(request.client), identities.resolve(request.server)
        decision = self._mesh.policy.can(client, server, request.port or None)
        return pb.CanReply(
            allowed=decision.allowed,
            client=str(decision.client),
            server=str(decision.server),
            reasons=[pb.Reason(object=r.object, field=r.field, text=r.text) for r in decision.reasons],
        )

    async def resolve(self, request: Any, _: str) -> Any:
        """Say what a NODE stands for."""
        key = self._mesh.identities.resolve(request.node)
        key_types = self._parts.house.authority.profiles[SVID.name].key_types
        return pb.ResolveReply(node_id=str(key), spiffe_id=str(self._mesh.identities.of(key)), key_types=key_types)

    @property
    def _mesh(self) -> MeshState:
        return self._parts.state.snapshot.mesh


def _applying(texts: Sequence[str], *, prune: bool) -> Callable[[MeshState], Proposal]:
    def judge(current: MeshState) -> Proposal:
        applied: Sequence[MeshObject] = parse_envelopes(texts, "object")
        return propose(current, current.mesh_set.with_applied(applied, prune=prune), applied)

    return judge


def _fits(key: ObjectKey, request: Any) -> bool:
    parent = getattr(request, "parent", "")
    return (
        (not request.kind or key.kind == request.kind)
        and request.name in {"", key.name}
        and request.mesh in {"", key.mesh}
        and parent in {"", key.parent}
    )


def _apply_reply(proposal: Proposal) -> Any:
    groups = (
        ("added", proposal.added),
        ("changed", proposal.changed),
        ("removed", proposal.removed),
        ("unchanged", proposal.unchanged),
    )
    calls = ((proposal.policy.gained, True), (proposal.policy.lost, False))
    return pb.ApplyReply(
        revision=proposal.state.revision,
        changes=[_change(word, key) for word, keys in groups for key in keys],
        permissions=[
            pb.Permission(client=str(p.client), server=str(p.server), port=p.port, allowed=allowed)
            for permissions, allowed in calls
            for p in permissions
        ],
        warnings=proposal.warnings,
    )


def _change(word: str, key: ObjectKey) -> Any:
    return pb.Change(change=word, kind=key.kind, mesh=key.mesh, name=key.name, parent=key.parent)
