"""All key stores behind the one Signer port: makes and opens keys by their place.

Rules kept here:
- A new key has signed, and its public key has verified that, before anybody builds on it.
- A key that exists is opened by the ledger's certificate: that is its public key, whatever the key store says. A key
  store that does not answer is no obstacle to opening, it is `troubles` until it signs again.
- One connection to OpenBao serves all of its keys.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog

from meshca.authority.ports import KeyUnavailableError, Signer
from meshca.authority.records import JWT, ROOT, AuthorityRecord, Role
from meshca.errors import InvalidInputError
from meshca.keys.files import KeyFolder, KeyMissingError, KeyOwner, new_key
from meshca.keys.place import FilePlace, KeyType, Pkcs11Place, Place, StorePlace, TransitPlace, parse_reference
from meshca.keys.proof import WrongKeyError, require_own_key, require_signature
from meshca.keys.rows import KeyTable, NoRows, SealedRows, require_current
from meshca.keys.sealed import KeyBinding
from meshca.spiffe.id import TrustDomain
from meshca.x509.issuer import Issuer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from meshca.keys.openbao_client import Bao

_log = structlog.get_logger(__name__)

_FIRST_GENERATION = 1


class WatchedSigner:
    """A signer that remembers whether its key store answers."""

    __slots__ = ("_inner", "trouble")

    def __init__(self, inner: Signer) -> None:
        self._inner = inner
        self.trouble = ""

    @property
    def key_id(self) -> str:
        """The id of the CA that the key belongs to."""
        return self._inner.key_id

    @property
    def key_ref(self) -> str:
        """Where the key is kept."""
        return self._inner.key_ref

    @property
    def spki(self) -> bytes:
        """The public key."""
        return self._inner.spki

    def sign(self, data: bytes) -> bytes:
        """Return a signature over ``data``.

        Raises:
            KeyUnavailableError: The key store does not sign.
        """
        try:
            signature = self._inner.sign(data)
            if self.trouble:  # back, but is it the same?
                require_signature(self, data, signature)
        except KeyUnavailableError as error:
            if not self.trouble:
                _log.warning("a key does not sign", key=self.key_ref, reason=str(error))
            self.trouble = str(error)
            raise
        if self.trouble:
            _log.info("a key signs again", key=self.key_ref)
            self.trouble = ""
        return signature

    def __repr__(self) -> str:
        return f"WatchedSigner({self._inner!r})"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the keys of new CAs go, and their type; None: P-256, or whatever a key is that exists."""

    root: Place = field(default_factory=FilePlace)
    issuing: Place = field(default_factory=StorePlace)
    kind: KeyType | None = None

    def of(self, role: Role) -> Place:
        """Return the place for a CA of this role."""
        return self.root if role == ROOT else self.issuing


@dataclass(slots=True)
class KeyStores:
    """The keys of one trust domain's CAs. ``passphrase`` is asked for once a sealed file needs it."""

    trust_domain: TrustDomain
    folder: KeyFolder
    passphrase: Callable[[], bytes] = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    placement: Placement = field(default_factory=Placement)
    rows: SealedRows = field(default_factory=NoRows, repr=False)
    brought: EllipticCurvePrivateKey | None = field(default=None, repr=False)  # the first root's, where not made here
    _absent: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    _added: list[str] = field(default_factory=list, init=False, repr=False)
    _opened: dict[str, Signer] = field(default_factory=dict, init=False, repr=False)
    _opening: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)
    _bao: Bao | None = field(default=None, init=False, repr=False)

    def create(self, role: Role, trust_domain: TrustDomain, generation: int) -> Signer:
        """Make the key of a new CA, or take the one that an administrator made there for the first CA.

        Raises:
            InvalidInputError: The key store is not configured.
            KeyUnavailableError: It does not answer, or does not let us make the key.
        """
        owner, place = KeyOwner(role, trust_domain, generation), self.placement.of(role)
        with self._opening:
            if isinstance(place, (FilePlace, StorePlace)):
                return self._sealed(place, owner)
            if self._is_brought(owner):
                raise InvalidInputError(
                    "a key that is brought is sealed in the home or the database, not put there",
                    field=str(place),
                    remedy="leave --root-key out, or let the key store make the root's key",
                )
            signer = self._made(place, owner)
        require_own_key(signer)
        return signer

    def reference(self, signer: Signer, generation: int) -> str:
        """Return the ``key_ref`` by which a CA of a later generation finds the key that was made for this one."""
        place = parse_reference(signer.key_ref)
        if isinstance(place, (FilePlace, StorePlace)):
            return str(replace(place, generation=generation))
        return signer.key_ref

    def signer(self, record: AuthorityRecord) -> Signer:
        """Return the signer of a CA, opening its key where this is the first time.

        Raises:
            InvalidInputError: The key store is not configured.
            KeyFileError: The sealed file is missing or unreadable.
            SealedKeyError: It does not open.
            WrongKeyError: The key store has another key there.
        """
        signer = self._opened.get(record.key_ref)
        if signer is None:
            with self._opening:
                signer = self._opened.get(record.key_ref) or self._open(record)
                self._opened[record.key_ref] = signer
                self._absent.pop(record.key_ref, None)
        if signer.key_id != record.id:
            raise WrongKeyError("this is the key of another CA", field=record.key_ref, value=signer.key_id)
        return signer

    def open_present(self, record: AuthorityRecord) -> None:
        """Open the key of a CA, if it is here; that a sealed one is kept elsewhere is one of the ``troubles``.

        Raises:
            KeyUnavailableError: It is here and does not open.
        """
        try:
            self.signer(record)
        except KeyMissingError as error:
            self._absent[record.key_ref] = str(error)
            _log.warning("the key of a CA is not here", ca=record.id, role=record.role, reason=str(error))

    def take_back(self) -> None:
        """Remove the rows of keys that this object made, for a CA that did not come to be."""
        for key_id in self._added:
            self.rows.remove(key_id)

    def _is_brought(self, owner: KeyOwner) -> bool:
        return self.brought is not None and (owner.role, owner.generation) == (ROOT, _FIRST_GENERATION)

    def _sealed(self, place: FilePlace | StorePlace, owner: KeyOwner) -> Signer:
        passphrase, kind = self.passphrase(), self.placement.kind or "ec-p256"
        with self.folder.mine():
            require_current(self.folder.sealed().values(), passphrase)
            key = self.brought if self._is_brought(owner) and self.brought else new_key(kind)
            if isinstance(place, FilePlace):
                return self.folder.keep(key, owner, passphrase)
            signer = KeyTable(self.rows).keep(key, owner, passphrase)
        self._added.append(signer.key_id)
        return signer

    def _made(self, place: TransitPlace | Pkcs11Place, owner: KeyOwner) -> Signer:
        # What an administrator made there beforehand is the first CA's, and no signing key's.
        fresh = owner.generation > _FIRST_GENERATION or owner.role == JWT
        if isinstance(place, TransitPlace):
            from meshca.keys.openbao import create_transit_key

            return create_transit_key(self.openbao(), place, self.placement.kind, fresh=fresh)
        from meshca.keys.pkcs11 import Pkcs11Key, create_pkcs11_key

        if fresh:  # by chance, since two replicas that made one of the same name would leave a name for two keys
            name = f"{place.label}-jwt" if place.label and owner.role == JWT else place.label or owner.role
            label = f"{name}-{owner.generation}-{os.urandom(4).hex()}"
            place = replace(place, label=label, object_id=b"")
        return create_pkcs11_key(Pkcs11Key.at(place, self.environ), self.placement.kind)

    def _open(self, record: AuthorityRecord) -> Signer:
        if not record.key_ref:
            raise KeyUnavailableError("the key of this CA is not ours", field="CA", value=record.id)
        place = parse_reference(record.key_ref)
        if isinstance(place, (FilePlace, StorePlace)):
            generation = place.generation or record.generation
            binding = KeyBinding(place.key_id, record.role, self.trust_domain, generation)
            kept = self.folder if isinstance(place, FilePlace) else KeyTable(self.rows)
            return kept.open(binding, self.passphrase())
        spki = record.spki or Issuer.from_der(record.id, record.certificate).spki
        signer = WatchedSigner(self._remote(place, spki))
        try:
            require_own_key(signer)
        except WrongKeyError:
            raise
        except KeyUnavailableError:
            pass  # it is in `troubles` now
        return signer

    @property
    def absent(self) -> bool:
        """Whether the key of a CA is kept elsewhere, where we do not reach it."""
        return bool(self._absent)

    @property
    def troubles(self) -> tuple[str, ...]:
        """What keeps key stores from signing, one text for each CA concerned."""
        return (*self._absent.values(), *(signer.trouble for signer in self._watched() if signer.trouble))

    def tend(self) -> None:
        """Keep us logged in, and see whether a key store that failed is back; call this now and then.

        Raises:
            KeyUnavailableError: The token can neither be renewed nor replaced.
        """
        for signer in self._watched():
            if signer.trouble:
                with suppress(KeyUnavailableError):  # it stays in `troubles`
                    require_own_key(signer)
        if self._bao is not None:
            self._bao.tend()

    def close(self) -> None:
        """Drop connections."""
        if self._bao is not None:
            self._bao.close()

    def _watched(self) -> list[WatchedSigner]:
        return [signer for signer in list(self._opened.values()) if isinstance(signer, WatchedSigner)]

    def _remote(self, place: TransitPlace | Pkcs11Place, spki: bytes) -> Signer:
        if isinstance(place, TransitPlace):
            from meshca.keys.openbao import TransitSigner

            return TransitSigner(self.openbao(), place, spki)
        from meshca.keys.pkcs11 import Pkcs11Key, Pkcs11Signer

        return Pkcs11Signer(Pkcs11Key.at(place, self.environ), spki)

    def openbao(self) -> Bao:
        """Return the one connection to OpenBao.

        Raises:
            BaoConfigError: The environment does not say where it is, or how to log in.
        """
        if self._bao is None:
            from meshca.keys.openbao_client import Bao
            from meshca.keys.openbao_login import read_settings

            self._bao = Bao(read_settings(self.environ))
        return self._bao
