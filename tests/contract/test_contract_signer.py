"""One suite over all key stores: sealed file, a real OpenBao, a real SoftHSM.

OpenBao is found by MESHCA_OPENBAO, then PATH, then where scripts/test installs it; SoftHSM is Debian's softhsm2.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from fakes.ca_records import record_of
from fakes.key_stores import PIN, TOKEN, OpenBao, SoftHsm, openbao, softhsm

from meshca.authority.ports import KeyUnavailableError, Signer
from meshca.keys.files import KeyFolder
from meshca.keys.place import KEY_TYPES, KeyType, parse_place, parse_reference
from meshca.keys.proof import WrongKeyError, require_own_key
from meshca.keys.stores import KeyStores, Placement
from meshca.spiffe.id import TrustDomain
from meshca.store.engine import open_store, upgrade
from meshca.store.sealed import SealedKeys
from meshca.x509.publickey import ca_id, curve_of

PASSPHRASE = "correct horse battery"  # noqa: S105
SECRETS = (PASSPHRASE, TOKEN, PIN)
TD = TrustDomain("m.test")
AT = datetime(2026, 11, 25, tzinfo=UTC)
STORES = ["file", "store", "openbao", "pkcs11"]


@dataclass
class Kept:
    """A key store under test."""

    name: str
    stores: KeyStores
    place: Callable[[str], str]
    bao: OpenBao | None = None
    hsm: SoftHsm | None = None
    labels: list[str] = field(default_factory=list)

    def new(self, kind: KeyType | None = None, *, generation: int = 1, label: str = "") -> Signer:
        """Make a key under a name of its own."""
        self.labels.append(label or f"key-{secrets.token_hex(4)}")
        self.stores.placement = Placement(issuing=parse_place(self.place(self.labels[-1])), kind=kind)
        return self.stores.create("issuing", TD, generation)

    def lose(self, signer: Signer) -> None:
        """Take the key away behind our back."""
        if self.bao is not None:
            with self.bao.client() as client:
                client.secrets.transit.update_key_configuration(self.labels[-1], deletion_allowed=True)
                client.secrets.transit.delete_key(self.labels[-1])
        elif self.hsm is not None:
            self.hsm.destroy(self.labels[-1])
        elif self.name == "store":
            self.stores.rows.remove(signer.key_id)
        else:
            self.stores.folder.file(signer.key_id).unlink()


@pytest.fixture(scope="session")
def bao() -> Iterator[OpenBao]:
    with openbao() as server:
        yield server


@pytest.fixture(scope="session")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    with softhsm(tmp_path_factory.mktemp("hsm")) as token:
        yield token


@contextmanager
def key_stores(folder: Path, environ: dict[str, str]) -> Iterator[KeyStores]:
    upgrade(database := f"sqlite:///{folder}.db")
    with open_store(database) as store:
        stores = KeyStores(TD, KeyFolder(folder), PASSPHRASE.encode, environ, rows=SealedKeys(store, lambda: AT))
        try:
            yield stores
        finally:
            stores.close()


@pytest.fixture(params=STORES)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    name: str = request.param
    if name == "openbao":
        server: OpenBao = request.getfixturevalue("bao")
        with key_stores(tmp_path / "keys", server.environ) as stores:
            yield Kept(name, stores, lambda label: f"openbao:transit/{label}", bao=server)
    elif name == "pkcs11":
        token: SoftHsm = request.getfixturevalue("hsm")
        with key_stores(tmp_path / "keys", {}) as stores:
            yield Kept(name, stores, token.uri, hsm=token)
    else:
        with key_stores(tmp_path / "keys", {}) as stores:
            yield Kept(name, stores, lambda _: name)


def require_signature(signer: Signer, data: bytes, signature: bytes) -> None:
    public, curve = load_der_public_key(signer.spki), curve_of(signer.spki)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert curve is not None
    public.verify(signature, data, curve.ecdsa)


@pytest.mark.parametrize("kind", KEY_TYPES)
def test_it_signs_with_the_hash_that_goes_with_the_curve(kept: Kept, kind: KeyType) -> None:
    signer = kept.new(kind)
    curve = curve_of(signer.spki)
    assert curve is not None
    assert curve.name == {"ec-p256": "P-256", "ec-p384": "P-384"}[kind]
    for data in (b"", b"to be signed", bytes(100_000)):
        require_signature(signer, data, signer.sign(data))


def test_a_new_key_is_p256_and_named_for_its_ca(kept: Kept) -> None:
    signer = kept.new()
    curve = curve_of(signer.spki)
    assert curve is not None
    assert curve.name == "P-256"
    assert signer.key_id == ca_id(signer.spki)


def test_signatures_are_of_this_data_alone(kept: Kept) -> None:
    signer = kept.new()
    with pytest.raises(InvalidSignature):
        require_signature(signer, b"other", signer.sign(b"data"))


def test_many_threads_may_sign(kept: Kept) -> None:
    signers = [kept.new(), kept.new("ec-p384")]
    wanted = [(signers[n % 2], str(n).encode()) for n in range(64)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda job: job[0].sign(job[1]), wanted))
    for (signer, data), signature in zip(wanted, made, strict=True):
        require_signature(signer, data, signature)


def test_its_reference_finds_it_again(kept: Kept, tmp_path: Path) -> None:
    signer = kept.new()
    assert str(parse_reference(signer.key_ref)) == signer.key_ref
    with key_stores(tmp_path / "keys", dict(kept.stores.environ)) as another:
        opened = another.signer(record_of(signer))
    require_signature(signer, b"data", opened.sign(b"data"))
    assert (opened.key_id, opened.key_ref, opened.spki) == (signer.key_id, signer.key_ref, signer.spki)


def test_the_next_generation_has_another_key_and_the_old_one_stays(kept: Kept) -> None:
    old = kept.new(label="turning")
    new = kept.new(label="turning", generation=2)
    assert old.spki != new.spki
    assert old.key_ref != new.key_ref
    require_signature(old, b"data", old.sign(b"data"))
    require_signature(new, b"data", new.sign(b"data"))


def test_a_key_for_tokens_is_no_cas_and_opens_without_a_certificate(kept: Kept, tmp_path: Path) -> None:
    issuing = kept.new(label="shared")  # in OpenBao and HSM: what an administrator made for the first issuing CA
    tokens = kept.stores.create("jwt", TD, 1)
    assert tokens.spki != issuing.spki
    record = replace(
        record_of(issuing), id=tokens.key_id, role="jwt", certificate=b"", key_ref=tokens.key_ref, spki=tokens.spki
    )
    with key_stores(tmp_path / "keys", dict(kept.stores.environ)) as another:
        require_signature(tokens, b"data", another.signer(record).sign(b"data"))
    require_signature(issuing, b"data", issuing.sign(b"data"))


def test_no_secret_is_shown(kept: Kept) -> None:
    signer = kept.new()
    shown = f"{signer!r} {signer.key_ref} {kept.stores!r}"
    assert not [secret for secret in SECRETS if secret in shown]


def test_a_lost_key_is_unavailable_and_says_what_to_do(kept: Kept) -> None:
    signer = kept.new()
    record = record_of(signer)
    kept.lose(signer)
    with pytest.raises(KeyUnavailableError) as caught:
        kept.stores.signer(record).sign(b"data")
    error = caught.value
    assert signer.key_id in str(error) or signer.key_ref in str(error)
    assert "backup" in error.remedy
    assert not [secret for secret in SECRETS if secret in str(error)]


def test_a_key_in_the_place_of_another_is_refused(kept: Kept) -> None:
    signer, other = kept.new(), kept.new()
    if kept.name == "file":
        target = kept.stores.folder.file(signer.key_id)
        target.unlink()
        kept.stores.folder.file(other.key_id).rename(target)
        with pytest.raises(KeyUnavailableError, match="another place"):
            kept.stores.signer(record_of(signer))
    elif kept.name == "store":
        rows = kept.stores.rows.all()
        kept.stores.rows.replace(rows, {signer.key_id: rows[other.key_id]})
        with pytest.raises(KeyUnavailableError, match="another place"):
            kept.stores.signer(record_of(signer))
    else:
        with pytest.raises(WrongKeyError, match="another key"):
            kept.stores.signer(record_of(signer, other.key_ref))


@pytest.mark.parametrize("kept", ["openbao", "pkcs11"], indirect=True)  # sealed keys are never taken over
def test_an_existing_key_is_taken_and_its_type_respected(kept: Kept) -> None:
    made = kept.new("ec-p384", label="existing")
    assert kept.new(label="existing").spki == made.spki
    with pytest.raises(WrongKeyError, match="ec-p256"):
        kept.new("ec-p256", label="existing")


def test_a_signer_proves_its_key(kept: Kept) -> None:
    require_own_key(kept.new())
