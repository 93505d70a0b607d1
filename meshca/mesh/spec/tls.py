"""TLS in specs: certificates, trust, names to match, listener TLS and client policies.

Rules kept here:
- A listener's `validation` makes it mutual TLS. Its trust is never ACM (App Mesh roadmap issue 258).
- A client certificate is never from ACM.
- Names in `subjectAlternativeNames` are compared exactly; any one suffices. policy/ decides which can match.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from meshca.mesh.spec.base import Items, OneOf, Port, Shape, ShortText, Text

Arn = Annotated[str, StringConstraints(pattern=r"^arn:\S+$")]
AlternativeName = Annotated[str, StringConstraints(min_length=1, max_length=254)]


class FileCertificate(Shape):
    """A certificate and key in files of the proxy's host."""

    certificate_chain: ShortText
    private_key: ShortText


class SdsSecret(Shape):
    """A secret fetched over SDS under this name."""

    secret_name: Text


class AcmCertificate(Shape):
    """A certificate in AWS Certificate Manager."""

    certificate_arn: Arn


class FileTrust(Shape):
    """A trust bundle in a file of the proxy's host."""

    certificate_chain: ShortText


class AcmTrust(Shape):
    """One to three private CAs in AWS Certificate Manager."""

    certificate_authority_arns: Annotated[Items[Arn], Field(min_length=1, max_length=3)]


class ListenerCertificate(OneOf):
    """Where a listener's certificate comes from."""

    acm: AcmCertificate | None = None
    file: FileCertificate | None = None
    sds: SdsSecret | None = None


class ClientCertificate(OneOf):
    """Where the certificate comes from that a client presents."""

    file: FileCertificate | None = None
    sds: SdsSecret | None = None


class ListenerTrust(OneOf):
    """What a listener trusts to sign client certificates."""

    file: FileTrust | None = None
    sds: SdsSecret | None = None


class ClientTrust(OneOf):
    """What a client trusts to sign server certificates."""

    acm: AcmTrust | None = None
    file: FileTrust | None = None
    sds: SdsSecret | None = None


class AlternativeNameMatch(Shape):
    """The exact names, any one of which suffices."""

    exact: Items[AlternativeName]


class AlternativeNames(Shape):
    """The peer names that are accepted."""

    match: AlternativeNameMatch


class ListenerValidation(Shape):
    """How a listener validates client certificates; its presence asks for one."""

    trust: ListenerTrust
    subject_alternative_names: AlternativeNames | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names listed, or none."""
        return self.subject_alternative_names.match.exact if self.subject_alternative_names else ()


class ClientValidation(Shape):
    """How a client validates server certificates."""

    trust: ClientTrust
    subject_alternative_names: AlternativeNames | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names listed, or none."""
        return self.subject_alternative_names.match.exact if self.subject_alternative_names else ()


class ListenerTls(Shape):
    """TLS of a listener."""

    mode: Literal["STRICT", "PERMISSIVE", "DISABLED"]
    certificate: ListenerCertificate
    validation: ListenerValidation | None = None


class ClientPolicyTls(Shape):
    """TLS of calls to backends."""

    enforce: bool = True
    ports: Items[Port] | None = None
    certificate: ClientCertificate | None = None
    validation: ClientValidation


class ClientPolicy(Shape):
    """How a client calls a backend."""

    tls: ClientPolicyTls | None = None


class BackendDefaults(Shape):
    """The client policy of every backend that has none of its own."""

    client_policy: ClientPolicy | None = None
