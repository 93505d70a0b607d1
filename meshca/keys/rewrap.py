"""Changing the passphrase of every sealed key, in files and in the database, with nothing re-issued.

Rules kept here:
- All or nothing. Every key is opened and sealed anew before anything is changed; then new files are written beside the
  old ones; then the rows change in one transaction; then the new files take the place of the old ones.
- Killed at any moment: before the rows have changed the old passphrase opens everything, afterwards the new one does
  (a file that has not been switched yet opens by the copy beside it). Run again, it finishes.
- A key that is under the new passphrase already stays as it is, so that the homes of several replicas can follow one
  after another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshca.errors import ConflictError, InvalidInputError
from meshca.keys.files import KeyFolder
from meshca.keys.rows import SealedRows, name_of
from meshca.keys.sealed import Sealed

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """How many keys were sealed anew, and how many were under the new passphrase already."""

    files: int
    rows: int
    already: int


def rewrap(folder: KeyFolder, rows: SealedRows, old: bytes, new: bytes) -> Rewrapped:
    """Put every sealed key under the new passphrase.

    Raises:
        InvalidInputError: The two are the same.
        WrongPassphraseError: A key opens under neither; nothing was changed.
        DamagedKeyError: A key does not open at all; nothing was changed.
        ConflictError: Servers keep making keys meanwhile; nothing was changed.
        UnavailableError: Disk or database fail; what was changed opens as this module's rules say.
    """
    if old == new:
        raise InvalidInputError("the new passphrase is the present one", field="--new-passphrase-file")
    with folder.mine():
        sealed = folder.sealed()
        files = _resealed(sealed, old, new)
        for _ in range(_ATTEMPTS):
            known = rows.all()
            changed = _resealed({key_id: Sealed(blob, name_of(key_id)) for key_id, blob in known.items()}, old, new)
            folder.stage(files)
            if rows.replace(known, changed):
                folder.switch(files)
                return Rewrapped(len(files), len(changed), len(sealed) + len(known) - len(files) - len(changed))
        folder.stage({})
    raise ConflictError("servers keep making keys; nothing was changed", field="sealed_keys", remedy="try again")


def _resealed(found: Mapping[str, Sealed], old: bytes, new: bytes) -> dict[str, bytes]:
    resealed = {key_id: sealed.resealed(key_id, old, new) for key_id, sealed in found.items()}
    return {key_id: blob for key_id, blob in resealed.items() if blob is not None}
