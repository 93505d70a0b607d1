"""A stream of bytes sealed under a passphrase: scrypt (RFC 7914), then AES-256-GCM, frame by frame.

Rules kept here:
- A frame is bound to its place: its number is the nonce (the key is never used twice: each chest has its own salt), its
  kind, its length and the digest of the header are associated data. So no frame is changed, moved or left out unseen.
- The last frame says that it is the last: a chest that was cut shows, wherever it was.
- A wrong passphrase, a damaged header, a cut and a changed frame are told apart.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import struct
from collections.abc import Callable, Generator, Iterable, Iterator
from hashlib import sha256
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from meshca.errors import InvalidInputError

_FAMILY, _VERSION = "meshca-backup/", "1"
_COST, _BLOCK_SIZE, _PARALLEL = 2**15, 8, 1
_COSTS = {2**power for power in range(15, 18)}  # what a file may ask for: enough, and no more than 128 MiB
_SALT_BYTES, _KEY_BYTES, _CHECK_BYTES = 16, 32, 16
_CHUNK = 256 * 1024
_TAG_BYTES = 16
_LONGEST_HEADER = 4096
_FRAME = struct.Struct(">BI")
_MORE, _LAST = 0, 1


class ChestError(InvalidInputError):
    """The file cannot be opened as a backup; the message says why."""


class WrongChestPassphraseError(ChestError):
    """The passphrase is not the one that the backup was sealed under."""


def seal(plain: Iterable[bytes], passphrase: bytes, entropy: Callable[[int], bytes] = os.urandom) -> Generator[bytes]:
    """Yield the chest in pieces: the header, then frames."""
    salt = entropy(_SALT_BYTES)
    key, check = _derive(passphrase, salt, _COST)
    header = _header(salt, check)
    yield header
    cipher, digest = AESGCM(key), sha256(header).digest()
    for number, (kind, chunk) in enumerate(_chunks(plain)):
        start = _FRAME.pack(kind, len(chunk) + _TAG_BYTES)
        yield start + cipher.encrypt(_nonce(number), chunk, digest + start)


def unseal(file: BinaryIO, passphrase: bytes, name: str) -> Iterator[bytes]:
    """Yield what was sealed, from the beginning of the file; errors call it ``name``.

    What is yielded is authentic, but only the end of the iteration says that it is whole.

    Raises:
        WrongChestPassphraseError: The passphrase does not fit.
        ChestError: It is no backup, of another version, cut, or changed.
    """
    file.seek(0)
    line = file.readline(_LONGEST_HEADER)
    key = _open_header(line, passphrase, name)
    cipher, digest, number = AESGCM(key), sha256(line).digest(), 0
    while True:
        kind, start, sealed = _frame(file, name)
        try:
            yield cipher.decrypt(_nonce(number), sealed, digest + start)
        except InvalidTag:
            raise _broken(f"frame {number} was changed or moved", name) from None
        if kind == _LAST:
            break
        number += 1
    if file.read(1):
        raise _broken("something follows its end", name)


def _chunks(plain: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield pieces of one size, the last of which is marked and may be shorter."""
    waiting = bytearray()
    for piece in plain:
        waiting += piece
        while len(waiting) > _CHUNK:
            yield _MORE, bytes(waiting[:_CHUNK])
            del waiting[:_CHUNK]
    yield _LAST, bytes(waiting)


def _header(salt: bytes, check: bytes) -> bytes:
    fields = {
        "format": _FAMILY + _VERSION,
        "scrypt": {"n": _COST, "r": _BLOCK_SIZE, "p": _PARALLEL, "salt": _text(salt)},
        "check": _text(check),
    }
    return json.dumps({**fields, "digest": _digest(fields)}).encode() + b"\n"


def _open_header(line: bytes, passphrase: bytes, name: str) -> bytes:
    fields = _fields(line)
    form = str(fields.get("format"))
    if not form.startswith(_FAMILY):
        raise ChestError("this is no meshca backup", field=name)
    if form != _FAMILY + _VERSION:
        raise ChestError(
            f"made by another version of meshca, in the form {form[:40]}",
            field=name,
            remedy="restore it with the meshca that made it",
        )
    if fields.pop("digest", None) != _digest(fields) or fields["scrypt"]["n"] not in _COSTS:
        raise _broken("its header was changed", name)
    salt, check, cost = _bytes(fields["scrypt"]["salt"]), _bytes(fields["check"]), fields["scrypt"]["n"]
    key, expected = _derive(passphrase, salt, cost)
    if not hmac.compare_digest(check, expected):
        raise WrongChestPassphraseError(
            "the passphrase is not the one that this backup was sealed under",
            field=name,
            remedy="give that of the server when it was made, with --passphrase-file",
        )
    return key


def _fields(line: bytes) -> dict[str, Any]:
    """Return the header's fields; none for what is no JSON object."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _frame(file: BinaryIO, name: str) -> tuple[int, bytes, bytes]:
    start = file.read(_FRAME.size)
    if len(start) < _FRAME.size:
        raise _broken("it ends too early", name, "is cut")
    kind, length = _FRAME.unpack(start)
    if kind not in {_MORE, _LAST} or not _TAG_BYTES <= length <= _CHUNK + _TAG_BYTES:
        raise _broken("a frame was changed", name)
    sealed = file.read(length)
    if len(sealed) < length:
        raise _broken("it ends too early", name, "is cut")
    return kind, start, sealed


def _derive(passphrase: bytes, salt: bytes, cost: int) -> tuple[bytes, bytes]:
    """Return the key and the check value, which says nothing about the key."""
    derived = Scrypt(salt=salt, length=_KEY_BYTES + _CHECK_BYTES, n=cost, r=_BLOCK_SIZE, p=_PARALLEL).derive(passphrase)
    return derived[:_KEY_BYTES], derived[_KEY_BYTES:]


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _digest(fields: dict[str, Any]) -> str:
    """Return what tells a damaged header from a wrong passphrase; it authenticates nothing."""
    return sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _broken(why: str, name: str, what: str = "is damaged") -> ChestError:
    return ChestError(f"the backup {what}: {why}", field=name, remedy="take another copy, or an older backup")


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
