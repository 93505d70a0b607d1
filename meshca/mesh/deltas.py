"""Where meshca is stricter than App Mesh was: the import report of `apply` and `validate`.

Rules kept here (App Mesh User Guide, TLS; measured on App Mesh's own configurations):
- D1 With `validation` a client certificate is required, names or none. Without names, whoever the mesh leads here is
  admitted; App Mesh took every certificate of the authority.
- D2 A server's certificate is validated always; App Mesh did not where no client policy applied and the server's
  certificate came from a file or SDS.
- D3 DROP_ALL lets nothing out but backends; App Mesh let *.amazonaws.com out as well.
- D4 PERMISSIVE with `validation` is open to anybody in plaintext, as it was; nobody should take it for mTLS.
- D5 Names are matched exactly and by type: peers are known by SPIFFE IDs, a DNS name admits nobody.
- D6 TLS is 1.2 or later on both sides.
- D7 Certificates and trust from files are served over SDS, so that they are renewed without a restart.
All of it is a note: nothing has to be done, but who relied on the old way has to know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshca.mesh.findings import Finding
from meshca.mesh.identity import client_policies
from meshca.mesh.model import Mesh, MeshObject, VirtualGateway, VirtualNode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meshca.mesh.model import Caller
    from meshca.mesh.spec.tls import ClientPolicyTls, ListenerTls

CLIENT_CERTIFICATE = "a client certificate is always required"
ONLY_CALLERS = "no names: the nodes that the mesh leads here are admitted; App Mesh took every certificate of the trust"
SERVERS_VALIDATED = "no client policy: the server's certificate is validated all the same, where App Mesh did not"
NO_HOLE = "DROP_ALL lets nothing out but backends; App Mesh let *.amazonaws.com out as well"
OPEN_TO_PLAINTEXT = "PERMISSIVE with validation is open to anybody in plaintext"
TYPED_NAMES = "names are matched exactly and by type: peers are known by SPIFFE IDs, a DNS name admits nobody"
MODERN_TLS = "TLS is 1.2 or later"
FILES_OVER_SDS = "files are not read: what they held is served over SDS, and renewed without a restart"


def security_deltas(item: MeshObject) -> tuple[Finding, ...]:
    """Return where an object is served more strictly than App Mesh served it."""
    return tuple(Finding("note", rule, object=str(item.key), field=field) for field, rule in _deltas(item))


def summary(findings: Iterable[Finding], shown: int = 3) -> Iterator[str]:
    """Return one line for each rule, with the first objects that it concerns."""
    by_rule: dict[str, dict[str, None]] = {}
    for finding in findings:
        by_rule.setdefault(finding.rule, {})[finding.object] = None
    for rule, objects in by_rule.items():
        more = f" and {len(objects) - shown} more" if len(objects) > shown else ""
        yield f"stricter than App Mesh: {rule} ({', '.join([*objects][:shown])}{more})"


def _deltas(item: MeshObject) -> Iterator[tuple[str, str]]:
    if isinstance(item, Mesh) and item.spec.egress_filter.type == "DROP_ALL":
        yield "spec.egressFilter.type", NO_HOLE
    elif isinstance(item, VirtualNode | VirtualGateway):
        for index, listener in enumerate(item.spec.listeners):
            if listener.tls is not None and listener.tls.mode != "DISABLED":
                yield from _listener(f"spec.listeners[{index}].tls", listener.tls)
        yield from _client(item)


def _listener(field: str, tls: ListenerTls) -> Iterator[tuple[str, str]]:
    yield field, MODERN_TLS
    if tls.certificate.file is not None:
        yield f"{field}.certificate.file", FILES_OVER_SDS
    if tls.validation is None:
        return
    yield f"{field}.validation", CLIENT_CERTIFICATE
    if tls.validation.trust.file is not None:
        yield f"{field}.validation.trust.file", FILES_OVER_SDS
    if tls.validation.names:
        yield f"{field}.validation.subjectAlternativeNames", TYPED_NAMES
    else:
        yield f"{field}.validation", ONLY_CALLERS
    if tls.mode == "PERMISSIVE":
        yield f"{field}.mode", OPEN_TO_PLAINTEXT


def _client(caller: Caller) -> Iterator[tuple[str, str]]:
    policies = [(field, policy.tls) for field, policy in client_policies(caller) if policy.tls is not None]
    for field, tls in policies:
        yield from _policy(f"{field}.tls", tls)
    if any(field.startswith("spec.backendDefaults") for field, _ in policies):
        return
    if isinstance(caller, VirtualGateway):
        yield "spec.backendDefaults", SERVERS_VALIDATED
        return
    for index, backend in enumerate(caller.spec.backends):
        if backend.service.client_policy is None or backend.service.client_policy.tls is None:
            yield f"spec.backends[{index}].virtualService", SERVERS_VALIDATED


def _policy(field: str, tls: ClientPolicyTls) -> Iterator[tuple[str, str]]:
    yield field, MODERN_TLS
    if tls.certificate is not None and tls.certificate.file is not None:
        yield f"{field}.certificate.file", FILES_OVER_SDS
    if tls.validation.trust.file is not None:
        yield f"{field}.validation.trust.file", FILES_OVER_SDS
    if tls.validation.names:
        yield f"{field}.validation.subjectAlternativeNames", TYPED_NAMES
