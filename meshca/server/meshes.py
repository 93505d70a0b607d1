"""From applied objects to the state of the meshes, and from one state to the next.

Rules: an apply is judged whole before anything is stored, and stored in one transaction together with its revision, its
audit record and the drain epochs of whatever it narrows; what cannot be judged changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from meshca.authority import audit
from meshca.authority.audit import OK, AuditEntry
from meshca.delivery.snapshot import MeshState, Snapshot
from meshca.envoy.names import backend_scope, listener_scope
from meshca.envoy.snapshot import Endpoint
from meshca.mesh.findings import Finding
from meshca.mesh.forest import MeshSet
from meshca.mesh.identity import identities, identities_after
from meshca.mesh.links import changed_keys
from meshca.mesh.model import MeshObject, ObjectKey
from meshca.mesh.notes import notes
from meshca.mesh.render import canonical_json
from meshca.mesh.source import parse_envelope
from meshca.policy.admission import Policy
from meshca.policy.difference import PolicyDifference, diff
from meshca.spiffe.id import TrustDomain
from meshca.store.meshes import MeshChange, StoredMeshes, StoredObject

_LONGEST_SUMMARY = 200


@dataclass(frozen=True, slots=True)
class Proposal:
    """A next state, judged but not stored."""

    state: MeshState  # with the present revision
    added: tuple[ObjectKey, ...]
    changed: tuple[ObjectKey, ...]
    removed: tuple[ObjectKey, ...]
    unchanged: tuple[ObjectKey, ...]
    policy: PolicyDifference
    warnings: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing would change."""
        return not (self.added or self.changed or self.removed)


def parse_envelopes(texts: Sequence[str], name: str) -> tuple[MeshObject, ...]:
    """Read objects in App Mesh's envelope.

    Raises:
        SpecError: One is malformed.
    """
    return tuple(parse_envelope(text, f"{name} {number}") for number, text in enumerate(texts, start=1))


def judged(mesh_set: MeshSet, trust_domain: TrustDomain, revision: int) -> MeshState:
    """Return the state of a mesh set.

    Raises:
        SpecError: A node names an identity that it may not have.
    """
    found = identities(mesh_set, trust_domain)
    return MeshState(revision, mesh_set, found, Policy.of(mesh_set, found, trust_domain))


def _judged_again(current: MeshState, mesh_set: MeshSet, touched: Collection[ObjectKey]) -> MeshState:
    """Return the state of a mesh set that differs from the current one in these objects: the same as ``judged``.

    Raises:
        SpecError: A node names an identity that it may not have.
    """
    known = identities_after(current.identities, current.mesh_set, mesh_set, touched)
    return MeshState(current.revision, mesh_set, known, current.policy.after(mesh_set, known, touched))


def load(stored: StoredMeshes, trust_domain: TrustDomain) -> MeshState:
    """Return the state that is stored."""
    mesh_set = MeshSet(parse_envelopes([item.spec for item in stored.objects], "stored object"))
    _ = mesh_set.links  # now, so that the first apply does not wait for them
    return judged(mesh_set, trust_domain, stored.revision)


def propose(current: MeshState, mesh_set: MeshSet, applied: Sequence[MeshObject]) -> Proposal:
    """Compare a next mesh set with the current state; ``applied`` are the objects that somebody sent."""
    before, after = current.mesh_set.objects, mesh_set.objects
    touched = changed_keys(before, after)
    state = _judged_again(current, mesh_set, touched)
    return Proposal(
        state=state,
        added=tuple(sorted(touched - before.keys())),
        changed=tuple(sorted(touched & before.keys() & after.keys())),
        removed=tuple(sorted(touched - after.keys())),
        unchanged=tuple(sorted({item.key for item in applied} - touched)),
        policy=diff(current.policy, state.policy),
        warnings=_warnings(state, applied),
    )


def change_of(proposal: Proposal, action: str, actor: str, at: datetime) -> MeshChange:
    """Return what the store is to write."""
    objects, touched = proposal.state.mesh_set.objects, (*proposal.added, *proposal.changed)
    summary = _summary(proposal)
    subject = ", ".join(sorted({key.mesh for key in (*touched, *proposal.removed)}))
    return MeshChange(
        expected=proposal.state.revision,
        changed=[StoredObject(key, canonical_json(objects[key])) for key in touched],
        removed=proposal.removed,
        at=at,
        actor=actor,
        summary=summary,
        audit=[AuditEntry(action, f"mesh {subject}", OK, summary, actor)],
        bumps=sorted(drained(proposal.policy)),
    )


APPLY, DELETE, ROLLBACK = audit.APPLY, audit.DELETE, audit.ROLLBACK


def undone(current: MeshState, replaced: Mapping[ObjectKey, str | None]) -> MeshSet:
    """Return the mesh set as it was before the newest revision, which has replaced these objects."""
    return current.mesh_set.changed(
        {key: None if spec is None else parse_envelope(spec, f"replaced {key}") for key, spec in replaced.items()}
    )


def with_endpoints(snapshot: Snapshot, endpoints: Mapping[ObjectKey, tuple[Endpoint, ...]]) -> Snapshot:
    """Return the snapshot with nodes to be found there; the same where nothing differs."""
    return snapshot if snapshot.endpoints == endpoints else replace(snapshot, endpoints=MappingProxyType({**endpoints}))


def would_be(snapshot: Snapshot, proposal: Proposal) -> Snapshot:
    """Return the snapshot that a proposal would make, with the revision that it would be."""
    raised = {scope: snapshot.epochs.get(scope, 0) + 1 for scope in drained(proposal.policy)}
    epochs = MappingProxyType({**snapshot.epochs, **raised}) if raised else snapshot.epochs
    state = replace(proposal.state, revision=proposal.state.revision + 1)
    return replace(snapshot, mesh=state, epochs=epochs)


def drained(policy: PolicyDifference) -> set[str]:
    """Return the drain scopes of what is narrowed: open connections of these must end (design §7)."""
    listeners = {listener_scope(permission.server, permission.port) for permission in policy.narrowed}
    return listeners | {backend_scope(found.client, found.service) for found in policy.narrowed_backends}


def _warnings(state: MeshState, applied: Sequence[MeshObject]) -> tuple[str, ...]:
    keys = {str(item.key) for item in applied}
    findings: list[Finding] = [*state.mesh_set.findings, *state.identities.findings, *state.policy.findings]
    found = [finding for finding in findings if finding.object in keys or not finding.object]
    found += [finding for item in applied for finding in notes(item)]
    return tuple(dict.fromkeys(str(finding) for finding in found))


def _summary(proposal: Proposal) -> str:
    parts = [("added", proposal.added), ("changed", proposal.changed), ("removed", proposal.removed)]
    text = "; ".join(f"{word} {', '.join(map(str, keys))}" for word, keys in parts if keys)
    return text if len(text) <= _LONGEST_SUMMARY else f"{text[: _LONGEST_SUMMARY - 1]}…"
