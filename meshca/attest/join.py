"""Join tokens: what an agent that has no identity yet brings, and how it knows the server that it brings it to.

A token is ``meshca-join1.SECRET.ROOT``: 256 random bits and the SHA-256 of the root certificate (DER), each in
base64url without padding.

Rules this module keeps (design §7):
- The agent compares the root that the server shows with the token's before it sends anything of the token.
- Only the secret's hash is stored; the secret has 256 bits, so a plain SHA-256 of it can't be searched.
- A token is read from a file or the environment, never from the command line, which every user of the host can read.
- One token has one spelling; no error, repr or comparison tells of the secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import stat
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from meshca.errors import InvalidInputError, UnauthenticatedError

VARIABLE = "MESHCA_TOKEN"

_PREFIX = "meshca-join1"
_SECRET_BYTES = 32
_ROOT_BYTES = hashlib.sha256().digest_size
_PART = re.compile(r"[A-Za-z0-9_-]{43}")  # 32 bytes in base64url
_MOST_FILE_BYTES = 4096
_REMEDY = "make a new one with: meshca token AGENT"


class JoinTokenError(InvalidInputError):
    """This is no join token."""


class WrongRootError(UnauthenticatedError):
    """The server that answers is not of the trust domain that the token is for."""


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A token that was read; ``secret`` is what the agent sends, ``secret_hash`` what the server stores."""

    secret: bytes = field(repr=False)
    secret_hash: bytes
    root_sha256: bytes

    def require_root(self, certificate: bytes) -> None:
        """Raise unless this (DER) is the root certificate that the token is for.

        Raises:
            WrongRootError: it is another; nothing of the token may be sent.
        """
        shown = hashlib.sha256(certificate).digest()
        if not hmac.compare_digest(shown, self.root_sha256):
            raise WrongRootError(
                f"the server shows the root {shown.hex()}, the token is for {self.root_sha256.hex()}",
                field="token",
                remedy="is --server the server that made the token? If it is, somebody stands in between",
            )


def new_token(entropy: Callable[[int], bytes], root_sha256: bytes) -> str:
    """Return a new token for the trust domain with this root; ``parse_token`` tells the hash to store.

    Raises:
        ValueError: it is no SHA-256, or ``entropy`` gives less than was asked for.
    """
    secret = entropy(_SECRET_BYTES)
    if len(secret) != _SECRET_BYTES or len(root_sha256) != _ROOT_BYTES:
        raise ValueError("a join token has a secret of 32 bytes and a root's SHA-256")
    return f"{_PREFIX}.{_encode(secret)}.{_encode(root_sha256)}"


def parse_token(text: str) -> JoinToken:
    """Return what a token says; white space around it is ignored, as files end with a newline.

    Raises:
        JoinTokenError: it is none, or was cut; the message holds nothing of it.
    """
    parts = text.strip(" \t\r\n").split(".")
    if parts == [""]:
        raise JoinTokenError("the token is empty", field="token", remedy=_REMEDY)
    if parts[0] != _PREFIX:
        raise JoinTokenError(f"a join token starts with {_PREFIX}.", field="token", remedy=_REMEDY)
    if len(parts) != 3:
        raise JoinTokenError(f"a join token has 3 parts, this one {len(parts)}", field="token", remedy=_REMEDY)
    secret = _decode(parts[1], "secret")
    return JoinToken(secret, hash_secret(secret), _decode(parts[2], "root"))


def hash_secret(secret: bytes) -> bytes:
    """Return what the server stores of a secret and finds it by.

    Raises:
        JoinTokenError: it is not as long as a secret is.
    """
    if len(secret) != _SECRET_BYTES:
        raise JoinTokenError(f"the secret of a join token has {_SECRET_BYTES} bytes", field="token", remedy=_REMEDY)
    return hashlib.sha256(b"meshca join token\0" + secret).digest()


def read_token(file: Path | None, environment: MutableMapping[str, str]) -> JoinToken:
    """Return the token in ``file`` or else in ``MESHCA_TOKEN``, which leaves the environment, so that no child has it.

    Raises:
        JoinTokenError: there is none in either, one in both, or it is not one.
    """
    from_environment = environment.pop(VARIABLE, "")
    if file is not None and from_environment:
        raise JoinTokenError(f"--token-file and {VARIABLE} are both given", field="token", remedy="give one of them")
    if file is not None:
        return parse_token(_read_file(file))
    if not from_environment:
        raise JoinTokenError("no join token", field="token", remedy=f"give --token-file or {VARIABLE}")
    return parse_token(from_environment)


def _read_file(path: Path) -> str:
    try:
        # O_NONBLOCK: a pipe without a writer would hold us for ever before we could see that it is one.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise JoinTokenError(f"cannot be read: {error.strerror}", field="--token-file", value=str(path)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise JoinTokenError("is no regular file", field="--token-file", value=str(path))
        raw = os.read(descriptor, _MOST_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(raw) > _MOST_FILE_BYTES:
        raise JoinTokenError(f"has more than {_MOST_FILE_BYTES} bytes", field="--token-file", value=str(path))
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        # Without its cause: that one quotes the file.
        raise JoinTokenError("is not text", field="--token-file", value=str(path)) from None


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str, name: str) -> bytes:
    wrong = JoinTokenError(
        f"the {name} of a join token is 43 characters of base64url, this one has {len(text)}",
        field="token",
        remedy=f"was it cut? {_REMEDY}",
    )
    if not _PART.fullmatch(text):
        raise wrong
    try:
        raw = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except binascii.Error:
        raise wrong from None
    # The last character holds 2 bits too many: only the spelling with zeros there is the token.
    if _encode(raw) != text:
        raise wrong
    return raw
