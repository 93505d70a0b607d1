"""A CA record for a key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from meshca.authority.ports import Signer
from meshca.authority.records import AuthorityRecord, Role

AT = datetime(2026, 11, 25, tzinfo=UTC)
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "encipher_only",
    "decipher_only",
)


def record_of(signer: Signer, key_ref: str = "", *, role: Role = "issuing", generation: int = 1) -> AuthorityRecord:
    """Return a CA record of this key; its certificate, which nobody checks here, is signed by any key."""
    public = load_der_public_key(signer.spki)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA")])
    usage = dict.fromkeys((*_USAGES, "key_cert_sign", "crl_sign"), False) | {"key_cert_sign": True, "crl_sign": True}
    builder = (
        x509.CertificateBuilder(name, name, public, 1).not_valid_before(AT).not_valid_after(AT + timedelta(days=1))
    )
    for extension in (
        x509.BasicConstraints(ca=True, path_length=0),
        x509.KeyUsage(**usage),
        x509.SubjectKeyIdentifier.from_public_key(public),
    ):
        builder = builder.add_extension(extension, critical=False)
    certificate = builder.sign(ec.generate_private_key(ec.SECP256R1()), SHA256())
    return AuthorityRecord(
        id=signer.key_id,
        role=role,
        state="active",
        generation=generation,
        certificate=certificate.public_bytes(Encoding.DER),
        parent_id=signer.key_id,
        key_ref=key_ref or signer.key_ref,
        not_before=AT,
        not_after=AT,
    )
