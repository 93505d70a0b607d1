"""Serial numbers: 19 random bytes, written as lower-case hex, two digits a byte, without a sign byte."""

from __future__ import annotations

import re

from meshca.errors import InvalidInputError

# RFC 5280 §4.1.2.2 allows 20 octets; with 19, the sign byte of a set top bit still fits.
SERIAL_BYTES = 19

_HEX = re.compile(r"(?:[0-9a-f]{2}){1,20}")


def new_serial(entropy: bytes) -> int:
    """Return a positive serial of 152 bits from 19 random bytes.

    Raises:
        ValueError: the source of randomness gave another number of bytes, or nothing but zeros.
    """
    serial = int.from_bytes(entropy, "big")
    if len(entropy) != SERIAL_BYTES or serial == 0:
        raise ValueError(f"a serial is made of {SERIAL_BYTES} random bytes that are not all zero")
    return serial


def serial_hex(serial: int) -> str:
    """Return the spelling that people and the ledger use."""
    return serial.to_bytes(max(1, (serial.bit_length() + 7) // 8), "big").hex()


def parse_serial(text: str) -> int:
    """Read what ``serial_hex`` writes.

    Raises:
        InvalidInputError: it is not that spelling.
    """
    if not _HEX.fullmatch(text) or serial_hex(int(text, 16)) != text:
        raise InvalidInputError(
            "a serial is lower-case hex, two digits a byte, without leading zero bytes",
            field="serial",
            value=text,
            remedy="copy it from `meshca certs`",
        )
    return int(text, 16)
