"""Sealed keys in files and in the database: who may open them, and how their passphrase changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fakes.ca_records import record_of

from meshca.authority.ports import KeyUnavailableError
from meshca.authority.records import AuthorityRecord, Role
from meshca.errors import ConflictError, InvalidInputError
from meshca.keys.files import KeyFolder, KeyMissingError
from meshca.keys.place import FilePlace, KeyType, StorePlace
from meshca.keys.rewrap import Rewrapped, rewrap
from meshca.keys.rows import SealedRows
from meshca.keys.sealed import DamagedKeyError, WrongPassphraseError
from meshca.keys.stores import KeyStores, Placement
from meshca.spiffe.id import TrustDomain
from meshca.store.engine import Store
from meshca.store.sealed import SealedKeys

OLD, NEW, OTHER = b"old secret", b"new secret", b"another"
TD = TrustDomain("m.test")
AT = datetime(2026, 11, 25, tzinfo=UTC)
SEALED: list[FilePlace | StorePlace] = [FilePlace(), StorePlace()]


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scrypt cost next to nothing."""
    monkeypatch.setattr("meshca.keys.sealed._COST", 16)
    monkeypatch.setattr("meshca.keys.sealed._COSTS", {16})


@pytest.fixture
def rows(store: Store) -> SealedKeys:
    return SealedKeys(store, lambda: AT)


@dataclass
class Vault:
    """Two sealed keys in files and two in rows, under one passphrase."""

    folder: KeyFolder
    rows: SealedRows
    records: list[AuthorityRecord] = field(default_factory=list)

    def stores(self, passphrase: bytes, placement: Placement | None = None) -> KeyStores:
        """Open the keys as a process that starts now would."""
        return KeyStores(TD, self.folder, lambda: passphrase, {}, placement or Placement(), self.rows)

    def opens(self, passphrase: bytes) -> bool:
        """Say whether every key opens under it."""
        stores = self.stores(passphrase)
        try:
            return all(stores.signer(record).key_id == record.id for record in self.records)
        except WrongPassphraseError:
            return False

    def state(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Return all that is kept."""
        return {path.name: path.read_bytes() for path in self.folder.path.iterdir()}, self.rows.all()


@pytest.fixture
def vault(tmp_path: Path, rows: SealedKeys) -> Vault:
    made = Vault(KeyFolder(tmp_path / "keys"), rows)
    for place in SEALED:
        for generation in (1, 2):
            stores = made.stores(OLD, Placement(issuing=place))
            signer = stores.create("issuing", TD, generation)
            made.records.append(record_of(signer, generation=generation))
    return made


# ---- places


@pytest.mark.parametrize("role", ["root", "issuing"])
@pytest.mark.parametrize("place", SEALED, ids=str)
@pytest.mark.parametrize("kind", ["ec-p256", "ec-p384"])
def test_either_role_may_be_sealed_in_either_place(
    tmp_path: Path, rows: SealedKeys, role: Role, place: FilePlace | StorePlace, kind: KeyType
) -> None:
    home = Vault(KeyFolder(tmp_path / "keys"), rows)
    signer = home.stores(OLD, Placement(place, place, kind)).create(role, TD, 1)
    opened = home.stores(OLD).signer(record_of(signer, role=role))
    assert (opened.spki, opened.key_ref) == (signer.spki, signer.key_ref)
    assert signer.key_ref == (signer.key_id if place == FilePlace() else f"store:{signer.key_id}")


def test_a_key_of_the_store_is_every_replicas(
    tmp_path: Path, store: Store, open_another: Callable[[str], Store]
) -> None:
    here = Vault(KeyFolder(tmp_path / "here"), SealedKeys(store, lambda: AT))
    there = Vault(KeyFolder(tmp_path / "there"), SealedKeys(open_another("replica"), lambda: AT))
    root, issuing = (here.stores(OLD, Placement()).create(role, TD, 1) for role in ("root", "issuing"))
    replica = there.stores(OLD)
    assert replica.signer(record_of(issuing)).spki == issuing.spki
    replica.open_present(record_of(root, role="root"))
    assert replica.troubles
    assert root.key_id in replica.troubles[0]
    with pytest.raises(KeyMissingError, match=root.key_id):
        replica.signer(record_of(root, role="root"))


def test_keys_of_an_init_that_failed_are_taken_back(tmp_path: Path, rows: SealedKeys) -> None:
    stores = Vault(KeyFolder(tmp_path / "keys"), rows).stores(OLD)
    stores.create("issuing", TD, 1)
    stores.take_back()
    assert rows.all() == {}


# ---- moved keys


def test_a_key_moved_to_another_row_does_not_open(vault: Vault) -> None:
    first, second = vault.records[2:]
    known = vault.rows.all()
    vault.rows.replace(known, {first.id: known[second.id], second.id: known[first.id]})
    for record in (first, second):
        with pytest.raises(DamagedKeyError, match=f"another place than issuing {record.id}") as caught:
            vault.stores(OLD).signer(record)
        assert caught.value.field == f"sealed_keys row {record.id}"
        assert "backup" in caught.value.remedy
    assert vault.stores(OLD).signer(vault.records[0])


def test_a_key_moved_to_another_file_does_not_open(vault: Vault) -> None:
    first, second = vault.records[:2]
    vault.folder.file(second.id).replace(vault.folder.file(first.id))
    with pytest.raises(DamagedKeyError, match="another place") as caught:
        vault.stores(OLD).signer(first)
    assert caught.value.field == str(vault.folder.file(first.id))


def test_a_key_opens_for_its_own_ca_only(vault: Vault) -> None:
    record, generation, role, other = (
        vault.records[2],
        record_with(vault.records[2], generation=7),
        record_with(vault.records[2], role="root"),
        record_with(vault.records[3], key_ref=vault.records[2].key_ref),
    )
    for wrong in (generation, role):
        with pytest.raises(DamagedKeyError, match="another place"):
            vault.stores(OLD).signer(wrong)
    with pytest.raises(KeyUnavailableError):
        vault.stores(OLD).signer(other)
    stores = vault.stores(OLD)
    stores.signer(record)
    with pytest.raises(KeyUnavailableError, match="another CA"):
        stores.signer(other)


def test_a_moved_key_is_no_reason_to_change_a_passphrase(vault: Vault) -> None:
    first, second = vault.records[2:]
    vault.rows.replace(known := vault.rows.all(), {first.id: known[second.id]})
    before = vault.state()
    with pytest.raises(DamagedKeyError, match=f"sealed key {second.id}"):
        rewrap(vault.folder, vault.rows, OLD, NEW)
    assert vault.state() == before


# ---- the passphrase changes


def test_every_key_is_under_the_new_passphrase_and_the_same_key(vault: Vault) -> None:
    assert rewrap(vault.folder, vault.rows, OLD, NEW) == Rewrapped(files=2, rows=2, already=0)
    assert vault.opens(NEW)
    for record in vault.records:
        with pytest.raises(WrongPassphraseError):
            vault.stores(OLD).signer(record)
    assert sorted(path.suffix for path in vault.folder.path.iterdir()) == [".key", ".key"]
    assert rewrap(vault.folder, vault.rows, OLD, NEW) == Rewrapped(files=0, rows=0, already=4)


class Killed(BaseException):
    """The process ends here."""


def _dying(monkeypatch: pytest.MonkeyPatch, at: int, *, after: bool) -> list[str]:
    """Let the process die before or after its write number ``at``; return what it wrote."""
    written: list[str] = []

    def wrap(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def write(*arguments: object, **named: object) -> object:
            written.append(name)
            if len(written) == at and not after:
                raise Killed
            result = real(*arguments, **named)
            if len(written) == at:
                raise Killed
            return result

        monkeypatch.setattr(owner, name, write)

    wrap(__import__("meshca.keys.files", fromlist=["x"]), "write_new")
    wrap(SealedKeys, "replace")
    wrap(Path, "replace")
    return written


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_killed_at_any_write_one_passphrase_opens_all_and_a_second_run_finishes(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, at: int, after: bool
) -> None:
    with monkeypatch.context() as patch:
        written = _dying(patch, at, after=after)
        with pytest.raises(Killed):
            rewrap(vault.folder, vault.rows, OLD, NEW)
        assert len(written) == at
    committed = at > 3 or (at == 3 and after)
    assert (vault.opens(OLD), vault.opens(NEW)) == (not committed, committed)
    rewrap(vault.folder, vault.rows, OLD, NEW)
    assert vault.opens(NEW)
    assert len(list(vault.folder.path.iterdir())) == 2


def test_an_interrupted_change_may_be_dropped_for_another(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        _dying(patch, 3, after=False)
        with pytest.raises(Killed):
            rewrap(vault.folder, vault.rows, OLD, NEW)
    rewrap(vault.folder, vault.rows, OLD, OTHER)
    assert (vault.opens(OTHER), vault.opens(NEW)) == (True, False)
    assert len(list(vault.folder.path.iterdir())) == 2


def test_a_key_under_neither_passphrase_changes_nothing(vault: Vault) -> None:
    before = vault.state()
    with pytest.raises(WrongPassphraseError) as caught:
        rewrap(vault.folder, vault.rows, OTHER, NEW)
    assert not [secret for secret in (OLD, NEW, OTHER) if secret.decode() in str(caught.value)]
    assert vault.state() == before


def test_the_same_passphrase_is_no_change(vault: Vault) -> None:
    with pytest.raises(InvalidInputError, match="present one"):
        rewrap(vault.folder, vault.rows, OLD, OLD)


@pytest.mark.parametrize("place", SEALED, ids=str)
def test_a_server_that_knows_the_old_one_only_makes_no_key(vault: Vault, place: FilePlace | StorePlace) -> None:
    running = vault.stores(OLD, Placement(place, place))
    signer = running.signer(vault.records[2])
    rewrap(vault.folder, vault.rows, OLD, NEW)
    assert signer.sign(b"data")
    before = vault.state()
    with pytest.raises(WrongPassphraseError, match="has been changed") as caught:
        running.create("issuing", TD, 3)
    assert "restart" in caught.value.remedy
    assert vault.state() == before
    assert vault.stores(NEW, Placement(place, place)).create("issuing", TD, 3)


def test_a_row_is_written_only_beside_those_that_were_seen(
    rows: SealedKeys, open_another: Callable[[str], Store]
) -> None:
    another = SealedKeys(open_another("replica"), lambda: AT)
    assert rows.add("a" * 20, "root", b"1", {})
    assert not another.add("b" * 20, "root", b"2", {})
    assert not rows.add("a" * 20, "root", b"3", {"a" * 20: b"1"})
    assert not another.replace({"a" * 20: b"0"}, {"a" * 20: b"9"})
    assert another.replace({"a" * 20: b"1"}, {"a" * 20: b"9"})
    assert rows.all() == {"a" * 20: b"9"}


def test_keys_made_while_the_passphrase_changes_are_under_the_one_that_holds(
    vault: Vault, open_another: Callable[[str], Store], tmp_path: Path
) -> None:
    replica = Vault(KeyFolder(tmp_path / "there"), SealedKeys(open_another("replica"), lambda: AT))
    made: list[AuthorityRecord] = []
    begun = threading.Event()

    def make() -> None:
        stores = replica.stores(OLD)
        for generation in range(10, 20):
            begun.set()
            try:
                made.append(record_of(stores.create("issuing", TD, generation), generation=generation))
            except WrongPassphraseError:
                return

    maker = threading.Thread(target=make)
    maker.start()
    begun.wait(10)
    try:
        rewrap(vault.folder, vault.rows, OLD, NEW)
    except ConflictError:
        pass
    finally:
        maker.join()
    vault.records += made
    rewrap(vault.folder, vault.rows, OLD, NEW)
    assert vault.opens(NEW)


class Changing:
    """Rows that somebody else changes all the time."""

    def __init__(self, rows: SealedRows) -> None:
        self._rows = rows

    def __getattr__(self, name: str) -> object:
        return getattr(self._rows, name)

    def all(self) -> dict[str, bytes]:
        return self._rows.all()

    def add(self, key_id: str, role: str, blob: bytes, known: Mapping[str, bytes]) -> bool:
        return False

    def replace(self, known: Mapping[str, bytes], changed: Mapping[str, bytes]) -> bool:
        return False

    def remove(self, key_id: str) -> None:
        raise AssertionError


def test_who_never_gets_a_turn_says_so(vault: Vault) -> None:
    before = vault.state()
    with pytest.raises(ConflictError, match="nothing was changed"):
        rewrap(vault.folder, Changing(vault.rows), OLD, NEW)
    with pytest.raises(KeyUnavailableError, match="keep changing"):
        KeyStores(TD, vault.folder, lambda: OLD, {}, Placement(), Changing(vault.rows)).create("issuing", TD, 3)
    assert vault.state() == before


def record_with(record: AuthorityRecord, **changes: object) -> AuthorityRecord:
    from dataclasses import replace

    return replace(record, **changes)  # type: ignore[arg-type]
