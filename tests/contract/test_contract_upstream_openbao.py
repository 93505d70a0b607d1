"""OpenBao's pki engine as the upstream: what it really returns, and how it fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from fakes.ca import LIVES, TRUST_DOMAIN, FakeClock, FakeKeys, node, request
from fakes.key_stores import OpenBao, answering, free_port, openbao
from fakes.ledger import InMemoryLedger

from meshca.authority.create import Created, NewRealm, create_below
from meshca.authority.lifetimes import Lifetimes
from meshca.authority.ports import KeyUnavailableError
from meshca.authority.records import AuthorityRecord
from meshca.authority.trust import Trust, build_trust, ca_of
from meshca.authority.upstreams import UpstreamError
from meshca.errors import UnavailableError
from meshca.keys.openbao_client import Bao, BaoMissingError, BaoRefusedError
from meshca.keys.openbao_login import read_settings
from meshca.keys.openbao_pki import PkiUpstream

DAY = timedelta(days=1)
POLICY = 'path "pki/root/sign-intermediate" { capabilities = ["create", "update"] }'

Connect = Callable[..., PkiUpstream]


@pytest.fixture(scope="module")
def server() -> Iterator[OpenBao]:
    """An OpenBao with a root in `pki`, and a CA below it in `corp/mesh`."""
    with openbao() as running:
        with running.client() as client:
            for mount in ("pki", "corp/mesh"):
                client.sys.enable_secrets_engine("pki", path=mount, config={"max_lease_ttl": "8760h"})
            generate(client, "pki")
            made = post(client, "corp/mesh/intermediate/generate/internal", common_name="corp mesh CA", key_type="ec")
            fields = {"common_name": "corp mesh CA", "ttl": "4000h", "csr": made["csr"]}
            signed = post(client, "pki/root/sign-intermediate", **fields)
            chain = f"{signed['certificate']}\n{signed['issuing_ca']}"
            post(client, "corp/mesh/intermediate/set-signed", certificate=chain)
            client.sys.create_or_update_policy("meshca", POLICY)
        yield running


def post(client: Any, path: str, **fields: Any) -> Any:
    answer = client.adapter.post(f"/v1/{path}", json=fields)
    return answer["data"] if isinstance(answer, dict) else None


def generate(client: Any, mount: str, ttl: str = "8000h") -> Any:
    return post(client, f"{mount}/root/generate/internal", common_name="corp root", ttl=ttl)


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Make upstreams of a mount at an address, with a token."""
    opened: list[Bao] = []

    def make(address: str, mount: str = "pki", token: str = "", **options: Any) -> PkiUpstream:
        environ = {"BAO_ADDR": address, "BAO_TOKEN": token or OpenBao(address).environ["BAO_TOKEN"]}
        opened.append(Bao(read_settings(environ), **options))
        bao = opened[-1]
        return PkiUpstream(lambda: bao, mount)

    yield make
    for bao in opened:
        bao.close()


def made_below(upstream: PkiUpstream, lives: Lifetimes = LIVES) -> tuple[Created, InMemoryLedger]:
    ledger, clock = InMemoryLedger(), FakeClock(datetime.now(UTC))
    return create_below(NewRealm(TRUST_DOMAIN, lives), upstream, clock, FakeKeys(), ledger), ledger


def trust_of(ledger: InMemoryLedger, at: datetime) -> Trust:
    return build_trust(1, ledger.authorities(), ledger.latest_crls(), at)


def roles(ledger: InMemoryLedger) -> list[str]:
    return sorted(record.role for record in ledger.authorities())


def not_before(record: AuthorityRecord) -> datetime:
    return x509.load_der_x509_certificate(record.certificate).not_valid_before_utc


def test_an_issuing_ca_below_openbaos_own_root(server: OpenBao, connect: Connect) -> None:
    created, ledger = made_below(connect(server.address))
    assert roles(ledger) == ["issuing", "root"]
    issuing = x509.load_der_x509_certificate(created.issuing.certificate)
    names = issuing.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://m.test")]
    assert issuing.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert issuing.subject.rfc4514_string() == f"CN=meshca issuing {created.issuing.id},O=m.test"
    assert abs(created.issuing.not_after - datetime.now(UTC) - LIVES.issuing) < timedelta(minutes=1)
    # Envoys' clocks may be behind by a minute.
    assert datetime.now(UTC) - not_before(created.issuing) >= timedelta(seconds=59)
    assert request(node("web"))


def test_a_token_that_may_sign_and_nothing_else_is_enough(server: OpenBao, connect: Connect) -> None:
    with server.client() as client:
        token = client.auth.token.create(policies=["meshca"], no_default_policy=True)["auth"]["client_token"]
    upstream = connect(server.address, token=token)
    created, _ = made_below(upstream)
    assert len(upstream.crls([ca_of(created.root)])) == 1


def test_a_ca_between_brings_its_root_and_both_crls(server: OpenBao, connect: Connect) -> None:
    upstream = connect(server.address, "corp/mesh")
    _, ledger = made_below(upstream)
    assert roles(ledger) == ["intermediate", "issuing", "root"]
    foreign = [ca_of(record) for record in ledger.authorities() if not record.is_ours]
    # The root's key is in another mount, so that this one has no CRL of it.
    crls = [x509.load_der_x509_crl(der) for der in upstream.crls(foreign)]
    assert [crl.issuer.rfc4514_string() for crl in crls] == ["CN=corp mesh CA"]
    assert trust_of(ledger, datetime.now(UTC)).leaf_crl_only


def test_a_revocation_there_raises_the_number_of_the_crl(server: OpenBao, connect: Connect) -> None:
    upstream = connect(server.address)
    created, _ = made_below(upstream)
    root = [ca_of(created.root)]

    def number() -> int:
        (der,) = upstream.crls(root)
        return x509.load_der_x509_crl(der).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number

    before, serial = number(), x509.load_der_x509_certificate(created.issuing.certificate).serial_number
    text = f"{serial:x}"
    text = text.zfill(len(text) + len(text) % 2)
    with server.client() as client:
        post(client, "pki/revoke", serial_number=":".join(text[at : at + 2] for at in range(0, len(text), 2)))
    assert number() > before
    assert serial in [entry.serial_number for entry in x509.load_der_x509_crl(upstream.crls(root)[0])]


def test_no_longer_a_life_is_asked_for_than_openbaos_own(server: OpenBao, connect: Connect) -> None:
    with server.client() as client:
        client.sys.enable_secrets_engine("pki", path="short")
        generate(client, "short", ttl="48h")
    created, _ = made_below(connect(server.address, "short"))
    assert created.issuing.not_after <= created.root.not_after


def test_a_mount_whose_life_is_too_short_is_refused(server: OpenBao, connect: Connect) -> None:
    with server.client() as client:
        client.sys.enable_secrets_engine("pki", path="tiny", config={"max_lease_ttl": "2h"})
        generate(client, "tiny", ttl="2h")
    with pytest.raises(UpstreamError, match="3:00:00 are needed"):
        made_below(connect(server.address, "tiny"))


def test_a_second_default_issuer_is_followed_and_each_has_its_crl(server: OpenBao, connect: Connect) -> None:
    with server.client() as client:
        client.sys.enable_secrets_engine("pki", path="two", config={"max_lease_ttl": "8760h"})
        generate(client, "two")
    upstream = connect(server.address, "two")
    first, _ = made_below(upstream)
    with server.client() as client:
        made = post(client, "two/root/rotate/internal", common_name="corp root 2", ttl="8000h")
        post(client, "two/config/issuers", default=made["issuer_id"])
    second, _ = made_below(upstream)
    assert first.root.id != second.root.id
    assert len(upstream.crls([ca_of(first.root), ca_of(second.root)])) == 2
    assert upstream.crls([]) == ()


# --- how it fails


def test_a_token_that_may_not_sign(server: OpenBao, connect: Connect) -> None:
    with server.client() as client:
        token = client.auth.token.create(policies=["default"])["auth"]["client_token"]
    with pytest.raises(BaoRefusedError, match=r'allow `path "pki/root/sign-intermediate"') as caught:
        made_below(connect(server.address, token=token))
    assert token not in str(caught.value)


def test_no_such_mount_and_a_mount_without_an_issuer(server: OpenBao, connect: Connect) -> None:
    with pytest.raises(UnavailableError):
        connect(server.address, "nowhere").require_ready()
    with server.client() as client:
        client.sys.enable_secrets_engine("pki", path="empty")
    with pytest.raises(UnavailableError):
        connect(server.address, "empty").require_ready()


def test_sealed(connect: Connect) -> None:
    with openbao() as own:
        upstream = connect(own.address)
        with own.client() as client:
            client.sys.enable_secrets_engine("pki", config={"max_lease_ttl": "8760h"})
            generate(client, "pki")
            upstream.require_ready()
            client.sys.seal()
        with pytest.raises(KeyUnavailableError, match="sealed"):
            upstream.require_ready()


def test_away(connect: Connect) -> None:
    with pytest.raises(KeyUnavailableError, match="cannot be reached"):
        made_below(connect(f"http://127.0.0.1:{free_port()}"))


def test_slow(connect: Connect) -> None:
    with (
        answering(200, delay=threading.Event()) as address,
        pytest.raises(KeyUnavailableError, match="did not answer within"),
    ):
        connect(address, time_limit=0.2).require_ready()


def test_after_silence_it_is_not_asked_for_certificates_until_it_answers_a_fetch(
    server: OpenBao, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = connect(server.address)
    created, _ = made_below(upstream)
    root = [ca_of(created.root)]
    own = upstream._bao

    def silent() -> Bao:
        raise KeyUnavailableError("did not answer")

    monkeypatch.setattr(upstream, "_bao", silent)
    with pytest.raises(KeyUnavailableError):
        upstream.crls(root)
    monkeypatch.setattr(upstream, "_bao", own)
    with pytest.raises(KeyUnavailableError, match="did not answer"):
        upstream.require_ready()
    upstream.crls(root)
    upstream.require_ready()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"errors": ["boom"]}'),
        (200, b"<html>a captive portal</html>"),
        (200, b"{}"),
        (200, json.dumps({"data": {"certificate": 7}}).encode()),
        (200, json.dumps({"data": {"certificate": "junk"}}).encode()),
        (200, json.dumps({"data": {"certificate": "x" * 100_000}}).encode()),
        (200, json.dumps({"data": {"certificate": "x", "ca_chain": ["x"] * 100}}).encode()),
    ],
)
def test_answers_that_make_no_sense(connect: Connect, status: int, body: bytes) -> None:
    with answering(status, body) as address, pytest.raises(UnavailableError):
        connect(address).require_ready()


def test_a_request_that_openbao_does_not_understand_is_told(server: OpenBao, connect: Connect) -> None:
    from meshca.authority.upstreams import Certification

    key = FakeKeys().create("issuing", TRUST_DOMAIN, 1)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    csr = builder.sign(key.key, hashes.SHA256()).public_bytes(Encoding.DER)
    wanted = Certification(csr, "m.test", "x", "not a uri \x00", 30 * DAY, datetime.now(UTC))
    with pytest.raises(UnavailableError) as caught:
        connect(server.address).certify(wanted)
    assert isinstance(caught.value, (BaoMissingError, UpstreamError, KeyUnavailableError))
