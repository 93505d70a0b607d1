"""Which SPIFFE ID a virtual node or gateway holds.

Rules kept here (design §2):
- I1 The ID is derived from the resource name: `spiffe://<trust domain>/mesh/<mesh>/<kind>/<name>`.
- I2 A spec that names its own (`tls.certificate.sds.secretName: spiffe://…`, in a listener or client policy) keeps it.
- I3 A name of its own lies in the trust domain, has a path, and is not under `/meshca/`.
- I4 It is not another node's, derived or named; two nodes never share one.
- I5 One node names one; several different ones are an error.
- I6 A secretName that is no SPIFFE ID selects nothing: derived, with a note. One that starts like a SPIFFE ID and
  breaks its rules is an error: whoever wrote it meant an identity, and would silently get another.
"""

from __future__ import annotations

from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING

from meshca.errors import InvalidInputError, NotFoundError
from meshca.mesh.findings import Finding, require_no_error
from meshca.mesh.model import IDENTITY_KINDS, Caller, ObjectKey, VirtualGateway, VirtualNode
from meshca.mesh.noderef import NodeRef, parse_node_id
from meshca.spiffe.id import IdentityError, SpiffeId, TrustDomain
from meshca.spiffe.reserved import is_reserved

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from meshca.mesh.forest import MeshSet
    from meshca.mesh.model import MeshObject
    from meshca.mesh.spec.tls import ClientPolicy

_SCHEME = "spiffe:"
_OWN_OR_NONE = "name another, or `default`: then the identity follows from the node's name"


class Identities:
    """Nodes and gateways, and their SPIFFE IDs, both ways."""

    def __init__(
        self, trust_domain: TrustDomain, ids: Mapping[ObjectKey, SpiffeId], findings: tuple[Finding, ...] = ()
    ) -> None:
        self.trust_domain = trust_domain
        self.findings = findings
        """Notes on secret names that select nothing."""
        self._ids = dict(ids)
        self._keys = {spiffe_id: key for key, spiffe_id in ids.items()}
        self._by_name: dict[str, list[ObjectKey]] = defaultdict(list)
        for key in sorted(ids):
            self._by_name[key.name].append(key)

    @property
    def ids(self) -> Mapping[ObjectKey, SpiffeId]:
        """Return the ID of every node and gateway."""
        return MappingProxyType(self._ids)

    @property
    def keys(self) -> Mapping[SpiffeId, ObjectKey]:
        """Return the node or gateway of every ID."""
        return MappingProxyType(self._keys)

    def of(self, key: ObjectKey) -> SpiffeId:
        """Return the ID of a node or gateway, or raise ``NotFoundError``."""
        spiffe_id = self._ids.get(key)
        if spiffe_id is None:
            raise NotFoundError("no applied mesh has this node", field="node", value=str(key))
        return spiffe_id

    def holder(self, spiffe_id: SpiffeId) -> ObjectKey | None:
        """Return the node or gateway that holds an ID, if one does."""
        return self._keys.get(spiffe_id)

    def of_node(self, node: NodeRef) -> SpiffeId | None:
        """Return the ID of the node that an Envoy says it is, if there is one."""
        return self._ids.get(node.key)

    def resolve(self, text: str) -> ObjectKey:
        """Return the node that a person names: a name if unique, a resource name, an ARN or a SPIFFE ID.

        Raises:
            NotFoundError: no applied mesh has it.
            InvalidInputError: several nodes have this name, or the SPIFFE ID is malformed.
        """
        if text.lower().startswith(_SCHEME):
            found = self._keys.get(SpiffeId.parse(text))
        else:
            node = parse_node_id(text)
            found = self._by_unique_name(text) if node is None else (node.key if node.key in self._ids else None)
        if found is None:
            raise NotFoundError("no applied mesh has this node", field="NODE", value=text, remedy="see `meshca get`")
        return found

    def _by_unique_name(self, name: str) -> ObjectKey | None:
        keys = self._by_name.get(name, ())
        if len(keys) > 1:
            several = ", ".join(str(key) for key in keys)
            raise InvalidInputError(f"several nodes have this name: {several}", field="NODE", value=name)
        return keys[0] if keys else None


def identities(mesh_set: MeshSet, trust_domain: TrustDomain) -> Identities:
    """Return the identity of every node and gateway.

    Raises:
        SpecError: a spec names an identity that it may not have.
    """
    callers = mesh_set.callers()
    derived = {caller.key: derived_id(trust_domain, caller.key) for caller in callers}
    owners = {spiffe_id: key for key, spiffe_id in derived.items()}
    ids = dict(derived)
    findings: list[Finding] = []
    for caller in sorted(callers, key=lambda item: item.key):
        named = _named(caller, trust_domain, findings)
        if named is None:
            continue
        owner = owners.setdefault(named, caller.key)
        if owner != caller.key:
            findings.append(_error(caller, "", f"{named} is the identity of {owner}", str(named)))
        ids[caller.key] = named
    require_no_error(findings)
    return Identities(trust_domain, ids, tuple(findings))


def identities_after(old: Identities, before: MeshSet, after: MeshSet, changed: Collection[ObjectKey]) -> Identities:
    """Return the identities once these objects are changed: the old ones where nobody comes, goes or names another.

    Raises:
        SpecError: a spec names an identity that it may not have.
    """
    if all(_names_the_same(before.find(key), after.find(key)) for key in changed if key.kind in IDENTITY_KINDS):
        return old
    return identities(after, old.trust_domain)


def _names_the_same(old: MeshObject | None, new: MeshObject | None) -> bool:
    if not isinstance(old, VirtualNode | VirtualGateway) or not isinstance(new, VirtualNode | VirtualGateway):
        return False
    return [*secret_names(old)] == [*secret_names(new)]


def derived_id(trust_domain: TrustDomain, key: ObjectKey) -> SpiffeId:
    """I1: return the ID that follows from a resource name."""
    return SpiffeId(trust_domain, f"/mesh/{key.mesh}/{key.kind}/{key.name}")


def _named(caller: Caller, trust_domain: TrustDomain, findings: list[Finding]) -> SpiffeId | None:
    """Return the one identity that a spec names, or None where it names none that it may have."""
    named: dict[SpiffeId, str] = {}
    for field, secret_name in secret_names(caller):
        spiffe_id = _permitted(caller, field, secret_name, trust_domain, findings)
        if spiffe_id is not None:
            named.setdefault(spiffe_id, field)
    if len(named) > 1:
        both = " and ".join(f"{spiffe_id} ({field})" for spiffe_id, field in named.items())
        findings.append(_error(caller, next(iter(named.values())), f"one node holds one identity, but names {both}"))
    return next(iter(named), None)


def _permitted(
    caller: Caller, field: str, secret_name: str, trust_domain: TrustDomain, findings: list[Finding]
) -> SpiffeId | None:
    """I3 and I6."""
    if not secret_name.strip().lower().startswith(_SCHEME):
        rule = f"a secretName that is no SPIFFE ID selects nothing: {derived_id(trust_domain, caller.key)} is served"
        findings.append(Finding("note", rule, object=str(caller.key), field=field, value=secret_name))
        return None
    try:
        spiffe_id = SpiffeId.parse(secret_name)
    except IdentityError as error:
        findings.append(_error(caller, field, error.message, secret_name, error.remedy))
        return None
    rule = ""
    if spiffe_id.trust_domain != trust_domain:
        rule = f"an identity lies in the trust domain {trust_domain}"
    elif spiffe_id.is_trust_domain:
        rule = "an identity of a node has a path"
    elif is_reserved(spiffe_id):
        rule = "identities under /meshca/ are reserved for meshca itself"
    if rule:
        findings.append(_error(caller, field, rule, secret_name, _OWN_OR_NONE))
    return None if rule else spiffe_id


def secret_names(caller: Caller) -> Iterator[tuple[str, str]]:
    """Yield where a spec names a certificate that is fetched over SDS, and the name."""
    for index, listener in enumerate(caller.spec.listeners):
        if listener.tls is not None and listener.tls.certificate.sds is not None:
            field = f"spec.listeners[{index}].tls.certificate.sds.secretName"
            yield field, listener.tls.certificate.sds.secret_name
    for field, policy in client_policies(caller):
        if policy.tls is not None and policy.tls.certificate is not None and policy.tls.certificate.sds is not None:
            yield f"{field}.tls.certificate.sds.secretName", policy.tls.certificate.sds.secret_name


def client_policies(caller: Caller) -> Iterator[tuple[str, ClientPolicy]]:
    """Yield every client policy of a node or gateway, and where it stands."""
    defaults = caller.spec.backend_defaults
    if defaults is not None and defaults.client_policy is not None:
        yield "spec.backendDefaults.clientPolicy", defaults.client_policy
    if isinstance(caller, VirtualNode):
        for index, backend in enumerate(caller.spec.backends):
            if backend.service.client_policy is not None:
                yield f"spec.backends[{index}].virtualService.clientPolicy", backend.service.client_policy


def _error(caller: Caller, field: str, rule: str, value: str = "", remedy: str = "") -> Finding:
    return Finding("error", rule, object=str(caller.key), field=field, value=value, remedy=remedy)
