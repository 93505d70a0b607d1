"""Keys and requests of CAs that others certify, on both databases."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fakes.ca_records import record_of
from store_examples import REALM, authority, entry

from meshca.authority.ports import TrustChange
from meshca.authority.records import CaRequest
from meshca.errors import InvalidInputError
from meshca.keys.files import KeyFolder
from meshca.keys.place import FilePlace, KeyPlaceError, Place, StorePlace, parse_place, parse_reference
from meshca.keys.sealed import DamagedKeyError, spki_of
from meshca.keys.stores import KeyStores, Placement
from meshca.spiffe.id import TrustDomain
from meshca.store.engine import Store
from meshca.store.ledger import SqlLedger
from meshca.store.sealed import SealedKeys

TD = TrustDomain("m.test")
AT = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scrypt cost next to nothing."""
    monkeypatch.setattr("meshca.keys.sealed._COST", 16)
    monkeypatch.setattr("meshca.keys.sealed._COSTS", {16})


def stores(store: Store, folder: Path, place: Place, brought: ec.EllipticCurvePrivateKey | None = None) -> KeyStores:
    return KeyStores(
        trust_domain=TD,
        folder=KeyFolder(folder),
        passphrase=lambda: b"secret",
        environ={},
        placement=Placement(root=place, issuing=place),
        rows=SealedKeys(store, lambda: AT),
        brought=brought,
    )


PLACES = pytest.mark.parametrize("place", [FilePlace(), StorePlace()], ids=["file", "store"])


@PLACES
def test_a_key_of_a_request_opens_for_a_ca_of_a_later_generation(
    store: Store, tmp_path: Path, place: FilePlace | StorePlace
) -> None:
    keys = stores(store, tmp_path / "keys", place)
    made = keys.create("issuing", TD, 3)
    reference = keys.reference(made, 3)
    assert parse_reference(reference) == replace(place, key_id=made.key_id, generation=3)
    record = replace(record_of(made, generation=9), key_ref=reference)
    assert stores(store, tmp_path / "keys", place).signer(record).spki == made.spki
    other, wrong = stores(store, tmp_path / "keys", place), replace(record, key_ref=reference.replace("@3", "@4"))
    with pytest.raises(DamagedKeyError, match="generation 4"):
        other.signer(wrong)


@pytest.mark.parametrize("text", ["0123456789abcdef0123@0", "store:0123456789abcdef0123@", "store:@1", "store@1"])
def test_references_are_strict(text: str) -> None:
    with pytest.raises(KeyPlaceError):
        parse_reference(text)


@PLACES
def test_a_brought_key_is_sealed_for_the_first_root_and_no_other(store: Store, tmp_path: Path, place: Place) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    keys = stores(store, tmp_path / "keys", place, key)
    root, issuing, later = keys.create("root", TD, 1), keys.create("issuing", TD, 1), keys.create("root", TD, 2)
    assert root.spki == spki_of(key)
    assert len({root.spki, issuing.spki, later.spki}) == 3
    reopened = stores(store, tmp_path / "keys", place)
    assert reopened.signer(replace(record_of(root, generation=1), role="root")).spki == root.spki


def test_a_brought_key_is_not_put_into_a_key_store(store: Store, tmp_path: Path) -> None:
    place = parse_place("openbao:transit/root")
    with pytest.raises(InvalidInputError, match="sealed in the home or the database"):
        stores(store, tmp_path / "keys", place, ec.generate_private_key(ec.SECP256R1())).create("root", TD, 1)


# --- the pending request


def request(name: str) -> CaRequest:
    return CaRequest(name * 10, f"store:{name * 10}@1", b"csr " + name.encode(), AT)


def test_one_request_is_pending_until_its_ca_is_known(store: Store) -> None:
    ledger = SqlLedger(store)
    ledger.create_realm(REALM, [], [], [entry("init")])
    assert ledger.pending_request() is None
    assert ledger.keep_request(request("11"), entry("request-ca"))
    assert not ledger.keep_request(request("22"), entry("request-ca"))
    assert ledger.pending_request() == request("11")
    ledger.change_trust(TrustChange(2, added=(authority("11" * 10, "issuing"),)), [entry("import-ca")])
    assert ledger.pending_request() is None
    assert ledger.keep_request(request("22"), entry("request-ca"))
    assert ledger.pending_request() == request("22")
    with store.read() as connection:
        actions = connection.exec_driver_sql("SELECT action FROM audit ORDER BY seq").scalars().all()
    assert list(actions) == ["init", "request-ca", "import-ca", "request-ca"]


def test_of_two_replicas_that_request_at_once_one_keeps_its_request(store: Store) -> None:
    ledger = SqlLedger(store)
    ledger.create_realm(REALM, [], [], [])
    start = threading.Barrier(2)

    def keep(name: str) -> bool:
        start.wait(10)
        return SqlLedger(store).keep_request(request(name), entry("request-ca"))

    with ThreadPoolExecutor(2) as pool:
        kept = list(pool.map(keep, ("11", "22")))
    assert sorted(kept) == [False, True]
    assert ledger.pending_request() == request("11" if kept[0] else "22")
