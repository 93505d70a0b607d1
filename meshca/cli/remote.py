"""A server over TCP: who this command line is there, and how it stays that.

The rules this module keeps:
- An identity is a folder with `svid.pem`, `svid_key.pem` and `bundle.pem`, as `meshca admin add` makes it; a key that
  others may read is refused.
- Past half of its life the certificate is replaced by one for a new key, made here, before the command runs; where the
  folder cannot be written the old one serves on.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from meshca.cli.files import replace_files
from meshca.cli.output import warn
from meshca.client.admin import AdminClient
from meshca.client.remote import remote_admin
from meshca.client.tunnel import Identity, Meeting, meeting, parse_server
from meshca.client.values import AdminIdentity
from meshca.drop.material import BUNDLE_FILE, CERTIFICATE_FILE, KEY_FILE, certificate_ders
from meshca.errors import MeshcaError, NotFoundError, RefusedError, UnauthenticatedError
from meshca.keys.requesting import new_request
from meshca.x509.presented import Presented, read_leaf

if TYPE_CHECKING:
    from meshca.agent.identity import Own

_LARGEST = 1 << 20
_MAKE_ONE = "make one on the server's host with `meshca admin add NAME --out DIR`, and give it as --identity"


class IdentityFolder:
    """A folder with an identity."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def meeting(self) -> Meeting:
        """Return how to meet the server with what is there now.

        Raises:
            MeshcaError: It cannot be used.
        """
        return meeting(self.presented().spiffe_id.trust_domain, self.bundle(), self.identity())

    def identity(self) -> Identity:
        """Return certificate and key.

        Raises:
            MeshcaError: They cannot be read, or others may read the key.
        """
        return Identity(self._read(CERTIFICATE_FILE), self._read(KEY_FILE, secret=True))

    def bundle(self) -> bytes:
        """Return the roots.

        Raises:
            MeshcaError: They cannot be read.
        """
        return self._read(BUNDLE_FILE)

    def presented(self) -> Presented:
        """Return what its certificate says.

        Raises:
            MeshcaError: There is none that can be read.
        """
        ders = certificate_ders(self._read(CERTIFICATE_FILE))
        if not ders:
            raise NotFoundError("holds no certificate", value=str(self.folder / CERTIFICATE_FILE), remedy=_MAKE_ONE)
        return read_leaf(ders[0])

    def put(self, made: AdminIdentity, key_pem: bytes) -> dict[str, str]:
        """Replace all of it."""
        files = {KEY_FILE: key_pem, CERTIFICATE_FILE: made.issued.chain, BUNDLE_FILE: made.bundle}
        return replace_files(self.folder.absolute(), files)

    def _read(self, name: str, *, secret: bool = False) -> bytes:
        path = self.folder / name
        try:
            with path.open("rb") as file:
                if secret and stat.S_IMODE(path.stat().st_mode) & 0o077:
                    raise RefusedError("others may read this key", value=str(path), remedy=f"chmod 600 {path}")
                return file.read(_LARGEST)
        except OSError as error:
            raise NotFoundError(
                f"cannot read it: {error.strerror}", field="--identity", value=str(path), remedy=_MAKE_ONE
            ) from error


def own_of(folder: Path, remedy: str) -> Own:
    """Return what stands in a folder, to be followed by another certificate.

    Raises:
        MeshcaError: It is not there, or has expired.
    """
    from meshca.agent.identity import Own

    found = IdentityFolder(folder)
    leaf = found.presented()
    if leaf.not_after <= datetime.now(UTC):
        ended = leaf.not_after.isoformat()
        raise UnauthenticatedError(f"this certificate expired at {ended}", value=str(folder), remedy=remedy)
    return Own(leaf.spiffe_id, leaf.serial, leaf.not_after, found.identity(), found.bundle())


@contextmanager
def remote_client(server: str, folder: Path) -> Iterator[AdminClient]:
    """Lend a client of a server over TCP.

    Raises:
        MeshcaError: There is no identity to call it with.
    """
    address, identity = parse_server(server), IdentityFolder(folder)
    presented, now = identity.presented(), datetime.now(UTC)
    if presented.not_after <= now:
        raise UnauthenticatedError(
            f"this certificate expired at {presented.not_after.isoformat()}", value=str(folder), remedy=_MAKE_ONE
        )
    identity.meeting()  # whatever is wrong with it is said before anybody is called
    if now > presented.not_before + (presented.not_after - presented.not_before) / 2:
        _renew(address, identity)
    with remote_admin(address, identity.meeting) as client:
        yield client


def _renew(address: tuple[str, int], identity: IdentityFolder) -> None:
    key_pem, csr = new_request()
    try:
        with remote_admin(address, identity.meeting) as client:
            identity.put(client.renew_admin(csr), key_pem)
    except MeshcaError as error:
        warn(f"the certificate in {identity.folder} was not renewed: {error}")
