"""What becomes of parts of a spec that meshca serves in its own way; said when it is applied.

Rules kept here (design §1, App Mesh User Guide, TLS):
- Certificates from files or ACM are not read: the node's own certificate from our CA is served over SDS instead.
- Trust from files or ACM is our bundle, delivered with the names that policy admits.
- Trust from SDS is our bundle as well, unless its name is that of another trust domain, which is not federated yet.
- An access log that is no standard stream is written to with the rights of the Envoy, wherever the spec says.
- A server certificate is always validated, and a client certificate always presented, where App Mesh did neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshca.mesh.findings import Finding
from meshca.mesh.identity import client_policies
from meshca.mesh.model import MeshObject, VirtualGateway, VirtualNode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshca.mesh.model import Caller
    from meshca.mesh.spec.tls import ClientPolicyTls, ListenerTls

_SERVED = "is not read: meshca serves the node's own certificate from its CA over SDS"
_TRUSTED = "is not read: meshca serves its own trust bundle over SDS"


_WRITTEN = "Envoy opens this file with its own rights, makes it where there is none, and appends to it"
_STREAMS = frozenset({"/dev/stdout", "/dev/stderr", "/dev/null", "/proc/self/fd/1", "/proc/self/fd/2"})


def notes(item: MeshObject) -> tuple[Finding, ...]:
    """Return what is to be said about an object."""
    return tuple(_notes(item)) if isinstance(item, VirtualNode | VirtualGateway) else ()


def _notes(caller: Caller) -> Iterator[Finding]:
    logging = caller.spec.logging
    log = logging.access_log.file if logging is not None and logging.access_log is not None else None
    if log is not None and log.path not in _STREAMS:
        remedy = "let it run as a user who may write there and nowhere else, or log to /dev/stdout"
        yield Finding("note", _WRITTEN, str(caller.key), "spec.logging.accessLog.file.path", log.path, remedy)
    for index, listener in enumerate(caller.spec.listeners):
        if listener.tls is not None:
            yield from _listener(caller, f"spec.listeners[{index}].tls", listener.tls)
    for field, policy in client_policies(caller):
        if policy.tls is not None:
            yield from _client(caller, f"{field}.tls", policy.tls)


def _listener(caller: Caller, field: str, tls: ListenerTls) -> Iterator[Finding]:
    certificate = tls.certificate
    if certificate.file is not None:
        yield _note(caller, f"{field}.certificate.file", f"the file {_SERVED}", certificate.file.certificate_chain)
    if certificate.acm is not None:
        yield _note(
            caller, f"{field}.certificate.acm", f"the ACM certificate {_SERVED}", certificate.acm.certificate_arn
        )
    if tls.validation is not None and tls.validation.trust.file is not None:
        chain = tls.validation.trust.file.certificate_chain
        yield _note(caller, f"{field}.validation.trust.file", f"the file {_TRUSTED}", chain)
    if tls.mode == "PERMISSIVE" and tls.validation is not None:
        rule = "PERMISSIVE lets anybody in without TLS, whatever validation says"
        yield Finding("warning", rule, str(caller.key), f"{field}.mode", remedy="use STRICT once all clients have TLS")


def _client(caller: Caller, field: str, tls: ClientPolicyTls) -> Iterator[Finding]:
    if tls.certificate is not None and tls.certificate.file is not None:
        chain = tls.certificate.file.certificate_chain
        yield _note(caller, f"{field}.certificate.file", f"the file {_SERVED}", chain)
    trust = tls.validation.trust
    if trust.file is not None:
        yield _note(caller, f"{field}.validation.trust.file", f"the file {_TRUSTED}", trust.file.certificate_chain)
    if trust.acm is not None:
        arns = ", ".join(trust.acm.certificate_authority_arns)
        yield _note(caller, f"{field}.validation.trust.acm", f"the ACM authority {_TRUSTED}", arns)


def _note(caller: Caller, field: str, rule: str, value: str) -> Finding:
    return Finding("note", rule, object=str(caller.key), field=field, value=value)
