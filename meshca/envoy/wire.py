"""Protobuf's wire form, for the few messages whose large parts are shared instead of built again.

Protobuf concatenates: the bytes of a message are its fields one after the other, so a field that was encoded once can
be spliced into any number of messages (https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_VARINT, _LENGTH_DELIMITED = 0, 2
_CONTINUES = 0x80
_FIXED_SIZES = {1: 8, 5: 4}


def message(field: int, content: bytes) -> bytes:
    """Return a length-delimited field: a message, a string or bytes."""
    return header(field, len(content)) + content


@functools.lru_cache(maxsize=65536)
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


def split(encoded: bytes, field: int) -> tuple[bytes, bytes]:
    """Split a message, whose fields are in the order of their numbers, before the first that comes after ``field``."""
    at = 0
    while at < len(encoded):
        key, value = _read(encoded, at)
        if key >> 3 > field:
            break
        at = _end(encoded, key, value)
    return encoded[:at], encoded[at:]


def contents(encoded: bytes, field: int) -> Sequence[bytes]:
    """Return what each occurrence of a length-delimited field holds, whatever message it is: 1, 2, 3 or 25."""
    found: Sequence[bytes] = getattr(_PARTS.FromString(encoded), f"field_{field}")
    return found


def _parts() -> Any:
    """Return the type of a message of which a few fields are left as they are: the library splits faster than we."""
    file = descriptor_pb2.FileDescriptorProto(name="meshca/envoy/parts.proto", package="meshca.envoy")
    message_type = file.message_type.add(name="Parts")
    for number in (1, 2, 3, 25):
        message_type.field.add(name=f"field_{number}", number=number, label="LABEL_REPEATED", type="TYPE_BYTES")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("meshca.envoy.Parts"))


_PARTS = _parts()


def _end(encoded: bytes, key: int, at: int) -> int:
    """Return where a field ends whose value begins at ``at``."""
    if key & 7 == _LENGTH_DELIMITED:
        length, at = _read(encoded, at)
        return at + length
    if key & 7 == _VARINT:
        return _read(encoded, at)[1]
    return at + _FIXED_SIZES[key & 7]


def _read(encoded: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    value = shift = 0
    while True:
        value |= (encoded[at] & 0x7F) << shift
        at += 1
        if encoded[at - 1] < _CONTINUES:
            return value, at
        shift += 7
