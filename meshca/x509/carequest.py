"""A request (PKCS #10, RFC 2986) for the certificate of an issuing CA whose root isn't ours.

Rules kept here: it asks for exactly what an issuing CA needs, and names the CA as we would; it is read back, and its
signature verified, before anybody gets it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.spiffe.id import TrustDomain
from meshca.x509 import der
from meshca.x509.checked import MisissueError
from meshca.x509.encode import assemble
from meshca.x509.issuer import ca_id
from meshca.x509.profile import ca_name, requested_extensions
from meshca.x509.publickey import Curve, curve_of
from meshca.x509.unreadable import UNREADABLE

_VERSION_1 = der.integer(0)
_EXTENSION_REQUEST = bytes.fromhex("06092a864886f70d01090e")


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """What is to be requested, for which key."""

    trust_domain: TrustDomain
    spki: bytes = field(repr=False)

    @property
    def common_name(self) -> str:
        """The CA's own part of its name."""
        return f"meshca issuing {ca_id(self.spki)}"

    @property
    def tbs(self) -> bytes:
        """The bytes to sign: a CertificationRequestInfo."""
        extensions = der.sequence(*(each.encoded for each in requested_extensions(self.trust_domain, self.spki)))
        attribute = der.sequence(_EXTENSION_REQUEST, der.tlv(0x31, extensions))
        subject = ca_name("issuing", self.trust_domain, self.spki).public_bytes()
        return der.sequence(_VERSION_1, subject, self.spki, der.explicit(0, attribute))

    def finish(self, signature: bytes) -> bytes:
        """Return the request in DER.

        Raises:
            MisissueError: The signature is not the key's, or the request does not read back.
        """
        encoded = assemble(self.tbs, self._curve, signature)
        try:
            read = x509.load_der_x509_csr(encoded)
            wanted = requested_extensions(self.trust_domain, self.spki)
            same = [(each.value, each.critical) for each in read.extensions] == [(w.value, w.critical) for w in wanted]
            good = read.is_signature_valid and same
        except UNREADABLE as error:
            raise MisissueError("the request cannot be read back", field=self.common_name) from error
        if not good:
            raise MisissueError("the request is not the planned one, or not signed by its key", field=self.common_name)
        return encoded

    @property
    def _curve(self) -> Curve:
        curve = curve_of(self.spki)
        if curve is None:
            raise MisissueError("the key is none of ours", field=self.common_name)
        return curve


def request_pem(request: bytes) -> bytes:
    """Return a request as PEM."""
    return x509.load_der_x509_csr(request).public_bytes(Encoding.PEM)
