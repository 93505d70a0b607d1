"""Specs: apply, roll back, watch a revision, get, delete, can, resolve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from meshca.delivery.desk import EnvoyProgress
from meshca.delivery.effects import Effect
from meshca.delivery.progress import WAITING
from meshca.delivery.snapshot import MeshState
from meshca.errors import ConflictError, InvalidInputError, NotFoundError
from meshca.mesh.model import KINDS, MeshObject, ObjectKey
from meshca.mesh.render import canonical_json
from meshca.server.meshes import APPLY, DELETE, ROLLBACK, Proposal, parse_envelopes, propose, undone
from meshca.server.parts import Parts
from meshca.server.services.calls import Streaming, Unary
from meshca.v1 import admin_pb2 as pb
from meshca.x509.profiles import SVID

_GONE = "gone"  # its streams have ended before it acknowledged
_GATHERING = 0.01


class MeshService:
    """What people do with App Mesh objects."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def calls(self) -> Mapping[str, Unary]:
        """Return the methods by the names of the API."""
        return {
            "Apply": self.apply,
            "Rollback": self.rollback,
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
        if request.dry_run:
            return _apply_reply(*await state.propose(judge))
        return _apply_reply(await state.apply(judge, APPLY, actor))

    async def rollback(self, request: Any, actor: str) -> Any:
        """Undo the newest revision, as a new revision."""
        replaced = await asyncio.to_thread(self._parts.house.meshes.replaced, request.revision)

        def judge(current: MeshState) -> Proposal:
            if current.revision != request.revision:
                raise ConflictError(
                    f"the meshes are at revision {current.revision} by now, and only the newest can be undone",
                    field="revision",
                    value=str(request.revision),
                    remedy="apply the specs that are to hold",
                )
            return propose(current, undone(current, replaced), ())

        proposal = await self._parts.state.apply(judge, ROLLBACK, actor)
        return pb.RollbackReply(revision=proposal.state.revision)

    def streams(self) -> Mapping[str, Streaming]:
        """Return the methods that answer with a stream."""
        return {"WatchRevision": self.watch_revision}

    async def watch_revision(self, request: Any, _: str) -> AsyncIterator[Any]:
        """Say how far the Envoys have come with a revision, until none is waited for."""
        if not 0 < request.revision <= self._mesh.revision:
            raise NotFoundError("there is no such revision", field="revision", value=str(request.revision))
        seen: dict[object, EnvoyProgress] = {}
        told: list[EnvoyProgress] | None = None
        while True:
            now, changed = self._parts.desk.progress(request.revision)
            seen = {envoy: _left(row) for envoy, row in seen.items()} | dict(now)
            rows = sorted(seen.values(), key=lambda row: (row.node_id, row.state))
            if rows != told:
                told = rows
                yield pb.RevisionProgress(envoys=[_progress(row) for row in rows])
            if all(row.state != WAITING for row in rows):
                return
            await changed.wait()
            await asyncio.sleep(_GATHERING)  # acknowledgements come in bursts

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


def _left(row: EnvoyProgress) -> EnvoyProgress:
    """Return what is known of an Envoy whose streams have ended, unless it is among those that are there."""
    return replace(row, state=_GONE) if row.state == WAITING else row


def _progress(row: EnvoyProgress) -> Any:
    return pb.EnvoyProgress(node_id=row.node_id, spiffe_id=row.spiffe_id, state=row.state, message=row.message)


def _effect(effect: Effect) -> Any:
    changes = [pb.ResourceChange(change=r.change, type_url=r.type_url, name=r.name) for r in effect.resources]
    return pb.Effect(node_id=str(effect.node), envoys=effect.envoys, resources=changes, problem=effect.problem)


def _apply_reply(proposal: Proposal, effects: Sequence[Effect] = ()) -> Any:
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
        effects=[_effect(effect) for effect in effects],
    )


def _change(word: str, key: ObjectKey) -> Any:
    return pb.Change(change=word, kind=key.kind, mesh=key.mesh, name=key.name, parent=key.parent)
