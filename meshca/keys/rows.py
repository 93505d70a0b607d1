"""Sealed keys in the database, which all replicas share; like key files, they open under the passphrase alone.

Rules kept here:
- A row is bound to key id, role, trust domain and generation: moved to another's place, it does not open.
- A new row is written only where every other row is still as it was when our passphrase was checked, so that a key
  never comes under a passphrase that has just been changed (rewrap.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from meshca.authority.ports import KeyUnavailableError
from meshca.keys.files import KeyFileError, KeyMissingError, KeyOwner, bound, new_key
from meshca.keys.place import KeyType, StorePlace
from meshca.keys.sealed import DamagedKeyError, KeyBinding, Sealed, SealedSigner, WrongPassphraseError, seal

_ATTEMPTS = 5


class SealedRows(Protocol):
    """The table of sealed keys. Every change has committed before it returns."""

    def all(self) -> dict[str, bytes]:
        """Return every sealed key by the id of its key."""

    def add(self, key_id: str, role: str, blob: bytes, known: Mapping[str, bytes]) -> bool:
        """Add one; False, with nothing written, unless the others are exactly ``known``."""

    def replace(self, known: Mapping[str, bytes], changed: Mapping[str, bytes]) -> bool:
        """Change rows, all or nothing; False, with nothing changed, unless the rows are exactly ``known``."""

    def remove(self, key_id: str) -> None:
        """Remove one, if it is there."""


@dataclass(frozen=True, slots=True)
class KeyTable:
    """Sealed keys of a table."""

    rows: SealedRows

    def create(self, owner: KeyOwner, passphrase: bytes, kind: KeyType) -> SealedSigner:
        """Make a key, seal it, store it, and return its signer.

        Raises:
            WrongPassphraseError: The keys that are there are under another passphrase.
            KeyFileError: Others keep changing the table.
            UnavailableError: The database does not take it.
        """
        return self.keep(new_key(kind), owner, passphrase)

    def keep(self, key: ec.EllipticCurvePrivateKey, owner: KeyOwner, passphrase: bytes) -> SealedSigner:
        """Seal a key, store it, and return its signer; it fails as ``create`` does."""
        binding = bound(key, owner)
        blob = seal(key, passphrase, binding)
        for _ in range(_ATTEMPTS):
            known = self.rows.all()
            require_current((Sealed(other, name_of(key_id)) for key_id, other in known.items()), passphrase)
            if self.rows.add(binding.key_id, binding.role, blob, known):
                return SealedSigner(key, str(StorePlace(binding.key_id)))
        raise KeyFileError("other processes keep changing the sealed keys", field="sealed_keys", remedy="try again")

    def open(self, binding: KeyBinding, passphrase: bytes) -> SealedSigner:
        """Open the key that ``binding`` names.

        Raises:
            KeyMissingError: There is no such row.
            WrongPassphraseError: The passphrase does not fit.
            DamagedKeyError: The row was changed, or made for another key.
        """
        blob = self.rows.all().get(binding.key_id)
        name = name_of(binding.key_id)
        if blob is None:
            raise KeyMissingError("the database has no such key", field=name, remedy="restore it from a backup")
        return Sealed(blob, name).open(passphrase, binding, str(StorePlace(binding.key_id)))


def require_current(others: Iterable[Sealed], passphrase: bytes) -> None:
    """Check that a key which is there already opens under the passphrase that a new one is to have.

    Raises:
        WrongPassphraseError: It does not, nor would the new one for whoever starts next.
    """
    for other in others:
        try:
            other.require_passphrase(passphrase)
        except DamagedKeyError:
            continue  # it opens under none, and so says nothing
        except WrongPassphraseError as error:
            raise WrongPassphraseError(
                "the passphrase has been changed since this process started; no key is made under the old one",
                field=other.name,
                remedy="restart the server with the new passphrase",
            ) from error
        return


def name_of(key_id: str) -> str:
    """Return what errors call the row of a key."""
    return f"sealed_keys row {key_id}"


class NoRows:
    """Stands where there is no database."""

    def all(self) -> dict[str, bytes]:
        """Return nothing."""
        return {}

    def add(self, key_id: str, role: str, blob: bytes, known: Mapping[str, bytes]) -> bool:
        """Refuse.

        Raises:
            KeyUnavailableError: Always.
        """
        raise KeyUnavailableError("there is no database to keep keys in", field="key", value=key_id)

    def replace(self, known: Mapping[str, bytes], changed: Mapping[str, bytes]) -> bool:
        """Change nothing, since nothing is there."""
        return not changed

    def remove(self, key_id: str) -> None:
        """Do nothing."""
