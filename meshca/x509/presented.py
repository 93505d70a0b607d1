"""A leaf as somebody presents it: what it says of itself, before anybody has said whether that is true."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from meshca.spiffe.id import SpiffeId
from meshca.x509.chain import ChainError, leaf_identity
from meshca.x509.serial import serial_hex
from meshca.x509.unreadable import UNREADABLE


@dataclass(frozen=True, slots=True)
class Presented:
    """What a leaf says of itself."""

    spiffe_id: SpiffeId
    serial: str
    not_before: datetime
    not_after: datetime


def read_leaf(der: bytes) -> Presented:
    """Return what a leaf says; nothing is checked of who signed it, nor whether it is valid now.

    Raises:
        ChainError: It cannot be read, or breaks a rule of X509-SVID §5.2.
    """
    try:
        leaf = x509.load_der_x509_certificate(der)
        spiffe_id = leaf_identity(leaf)
        return Presented(spiffe_id, serial_hex(leaf.serial_number), leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    except UNREADABLE as error:
        raise ChainError([f"a certificate cannot be read: {error}"]) from error
