"""A root that an operator brings: its certificate and its private key in two files.

Rules: both files are read and left alone; the key is EC, since it becomes ours, and may be encrypted under a passphrase
of its own (MESHCA_ROOT_KEY_PASSPHRASE_FILE, MESHCA_ROOT_KEY_PASSPHRASE); no error quotes what was read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshca.errors import InvalidInputError
from meshca.keys.passphrase import passphrase_of
from meshca.keys.sealed import spki_of
from meshca.x509.foreign import read_chain
from meshca.x509.publickey import curve_of

CERTIFICATE_FILE, KEY_FILE = "root.pem", "root_key.pem"
FILE_VARIABLE, VARIABLE = "MESHCA_ROOT_KEY_PASSPHRASE_FILE", "MESHCA_ROOT_KEY_PASSPHRASE"
_LARGEST = 64 * 1024


class RootFileError(InvalidInputError):
    """A root cannot be taken from these files; nothing was changed."""


@dataclass(frozen=True, slots=True)
class BroughtRoot:
    """A root certificate (DER) and its key."""

    certificate: bytes = field(repr=False)
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    warnings: tuple[str, ...]


def read_root(folder: Path, environ: Mapping[str, str]) -> BroughtRoot:
    """Read a root and its key.

    Raises:
        RootFileError: A file is missing, too large, or not what it has to be.
        ForeignChainError: The certificate's file holds something else.
        PassphraseError: The key's passphrase cannot be read.
    """
    certificates = read_chain(_content(folder / CERTIFICATE_FILE))
    if len(certificates) != 1:
        where = str(folder / CERTIFICATE_FILE)
        raise RootFileError("more than one certificate", field=where, remedy="give the root alone")
    key_file = folder / KEY_FILE
    key = _key(_content(key_file), key_file, passphrase_of(environ, FILE_VARIABLE, VARIABLE))
    return BroughtRoot(certificates[0], key, tuple(_warnings(key_file)))


def _key(content: bytes, file: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(content, passphrase)
    except TypeError:  # encrypted and no passphrase, or the other way round
        wanted = "it is encrypted" if passphrase is None else "it is not encrypted, and a passphrase is given"
        remedy = f"set {FILE_VARIABLE}" if passphrase is None else f"unset {FILE_VARIABLE} and {VARIABLE}"
        raise RootFileError(wanted, field=str(file), remedy=remedy) from None
    except (ValueError, UnsupportedAlgorithm):
        remedy = "give a private key as PEM (PKCS #8), and its own passphrase if it is encrypted"
        wrong = "no private key that can be read, or a wrong passphrase"
        raise RootFileError(wrong, field=str(file), remedy=remedy) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or curve_of(spki_of(key)) is None:
        remedy = "bring an EC root; one with an RSA key can be an offline upstream"
        raise RootFileError("its key is neither EC P-256 nor P-384", field=str(file), remedy=remedy)
    return key


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
        raise RootFileError(wrong, field=str(file), remedy="check path and mode") from error
    if len(content) > _LARGEST:
        raise RootFileError(f"more than {_LARGEST} bytes", field=str(file))
    return content


def _warnings(key_file: Path) -> list[str]:
    found = [f"{key_file} is left where it is: the key is sealed here now, keep that copy offline or destroy it"]
    if stat.S_IMODE(os.stat(key_file).st_mode) & 0o077:
        found.append(f"{key_file} can be read by others than its owner: whoever has read it has the root")
    return found
