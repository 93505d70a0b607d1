"""DER, as little of it as certificates and CRLs need (X.690).

Why not `cryptography`'s builders alone: they encode every extension anew for each certificate, which costs more than
the signature, and grow with the square of a CRL. What is built here is always read back with `cryptography`.
"""

from __future__ import annotations

from datetime import UTC, datetime

TRUE = b"\x01\x01\xff"
EMPTY_SEQUENCE = b"\x30\x00"

_UTC_TIME_UNTIL = 2050
_LONG_FORM = 0x80


class DerError(ValueError):
    """The bytes are not the DER that was expected."""


def tlv(tag: int, content: bytes) -> bytes:
    """Return one element: tag, length, content."""
    size = len(content)
    if size < _LONG_FORM:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, _LONG_FORM | len(octets))) + octets + content


def sequence(*parts: bytes) -> bytes:
    """Return a SEQUENCE of the encoded parts."""
    return tlv(0x30, b"".join(parts))


def explicit(number: int, part: bytes) -> bytes:
    """Return the part under an explicit context tag."""
    return tlv(0xA0 | number, part)


def octet_string(content: bytes) -> bytes:
    """Return an OCTET STRING."""
    return tlv(0x04, content)


def bit_string(content: bytes) -> bytes:
    """Return a BIT STRING without unused bits."""
    return tlv(0x03, b"\x00" + content)


def integer(value: int) -> bytes:
    """Return a non-negative INTEGER; a set top bit costs one sign byte."""
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def extension(oid: bytes, value: bytes, *, critical: bool) -> bytes:
    """Return an Extension (RFC 5280 §4.1); ``oid`` is encoded already."""
    return sequence(oid, TRUE if critical else b"", octet_string(value))


def time(at: datetime) -> bytes:
    """Return a Time: UTCTime until 2049, then GeneralizedTime, in UTC, fractions cut off (RFC 5280 §4.1.2.5)."""
    moment = at if at.tzinfo is UTC else at.astimezone(UTC)
    clock = b"%02d%02d%02d%02d%02dZ" % (moment.month, moment.day, moment.hour, moment.minute, moment.second)
    if moment.year < _UTC_TIME_UNTIL:
        return b"\x17\x0d%02d" % (moment.year % 100) + clock
    return b"\x18\x0f%04d" % moment.year + clock


def children(element: bytes) -> list[bytes]:
    """Return the elements inside a constructed one, each with its tag and length.

    Raises:
        DerError: lengths do not add up, or are not minimal.
    """
    found = []
    try:
        at, end = _content(element, 0)
        if end != len(element):
            raise DerError("the length is not that of the element")
        while at < end:
            # The short form is read in place: this runs for every field of every certificate.
            size = element[at + 1]
            after = at + 2 + size if size < _LONG_FORM else _content(element, at)[1]
            if after > end:
                raise DerError("an element is longer than the one around it")
            found.append(element[at:after])
            at = after
    except IndexError:
        raise DerError("truncated") from None
    return found


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the element at ``at`` begins and ends."""
    size, start = der[at + 1], at + 2
    if size < _LONG_FORM:
        return start, start + size
    begin = start + size - _LONG_FORM
    size = int.from_bytes(der[start:begin], "big")
    if size < _LONG_FORM or der[start] == 0:
        raise DerError("a length is not in its shortest form")
    return begin, begin + size
