"""A certificate authority of another trust domain, honest or not, and calls with what it has signed."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshca.spiffe import bundle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.asking import Address

_PATIENCE = 5.0


@dataclass
class Stranger:
    """A root of a trust domain, and its key."""

    trust_domain: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    sequence: int = 1
    root: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.trust_domain)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        uri = x509.UniformResourceIdentifier(f"spiffe://{self.trust_domain}")
        self.root = (
            _dated(x509.CertificateBuilder(), timedelta(days=30))
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def bundle(self) -> bytes:
        """Return its SPIFFE bundle."""
        return bundle.spiffe_jwks([self.root.public_bytes(Encoding.DER)], self.sequence, 300)

    def bundle_file(self, folder: Path) -> str:
        """Write the bundle and return where it is."""
        file = folder / f"{self.trust_domain}.json"
        file.write_bytes(self.bundle)
        return str(file)

    def minted(self, *uris: str, dns: Sequence[str] = ()) -> bytes:
        """Return a leaf with these names and its key, whoever they belong to."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        leaf = (
            _dated(x509.CertificateBuilder(), timedelta(hours=1))
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return leaf.public_bytes(Encoding.PEM) + private


def _dated(builder: x509.CertificateBuilder, life: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    made = builder.serial_number(x509.random_serial_number())
    return made.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + life)


def call(at: Address, pem: bytes, sni: str = "", host: str = "x") -> int:
    """Make one request over TLS with a certificate and key; return its status, 0 where the handshake was refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
    with (
        contextlib.suppress(OSError),
        socket.create_connection(at, _PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=sni or None) as connection,
    ):
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n" not in head and (more := connection.recv(4096)):
            head += more
        return int(head.split()[1]) if head else 0
    return 0


def validation(*names: str) -> dict[str, Any]:
    """Return the validation of a spec that admits exactly these."""
    trust = {"trust": {"sds": {"secretName": "ROOTCA"}}}
    return {**trust, "subjectAlternativeNames": {"match": {"exact": list(names)}}}


def mutual(*names: str) -> dict[str, Any]:
    """Return the TLS of a listener that admits exactly these."""
    return {"mode": "STRICT", "certificate": {"sds": {"secretName": "default"}}, "validation": validation(*names)}
