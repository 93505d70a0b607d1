"""Protobuf's wire form, for the few messages whose large parts are shared instead of built again.

Protobuf concatenates: the bytes of a message are its fields one after the other, so a field that was encoded once can
be spliced into any number of messages (https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

_VARINT, _LENGTH_DELIMITED = 0, 2
_CONTINUES = 0x80


def message(field: int, content: bytes) -> bytes:
    """Return a length-delimited field: a message, a string or bytes."""
    return header(field, len(content)) + content


def header(field: int, length: int) -> bytes:
    """Return what stands before ``length`` bytes of a length-delimited field."""
    return varint(field << 3 | _LENGTH_DELIMITED) + varint(length)


def number(field: int, value: int) -> bytes:
    """Return a non-negative integer or enum field."""
    return varint(field << 3 | _VARINT) + varint(value)


def varint(value: int) -> bytes:
    """Return a non-negative integer, seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value >= _CONTINUES:
        encoded.append(value & 0x7F | _CONTINUES)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
