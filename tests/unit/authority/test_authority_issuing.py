from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fakes.ca import T0, TRUST_DOMAIN, UNREACHABLE, World, node, request

from meshca.authority.audit import FAILED, ISSUE, OK, REFUSED
from meshca.authority.authority import Settings
from meshca.authority.issuing import RevokedBeforeReleaseError, SigningFailedError, SuspendedError
from meshca.authority.lifetimes import Lifetimes
from meshca.authority.ports import Intent, KeyUnavailableError
from meshca.authority.profiles import profiles_in_force
from meshca.authority.records import CertificateFilter
from meshca.authority.requests import IdentityRefusedError, Issued, IssueRequest, Refused
from meshca.authority.trust import NoActiveAuthorityError
from meshca.errors import InvalidInputError, MeshcaError, UnavailableError
from meshca.spiffe.reserved import nobody
from meshca.x509.checked import MisissueError
from meshca.x509.plan import BACKDATING

ALL = CertificateFilter(at=T0)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


def issued(world: World, *requests: IssueRequest) -> list[Issued]:
    answers = world.authority.issue(requests or [request()])
    assert all(isinstance(answer, Issued) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Issued)]


def refusal(world: World, wanted: IssueRequest) -> MeshcaError:
    (answer,) = world.authority.issue([wanted])
    assert isinstance(answer, Refused)
    return answer.error


def test_what_is_released_is_what_the_ledger_holds() -> None:
    world = World()
    (answer,) = issued(world)
    record = world.ledger.certificate(answer.certificate.serial)
    assert record is not None
    assert (record.state, record.certificate) == ("issued", answer.certificate.der)
    assert (record.spiffe_id, record.holder, record.kind, record.requested_by) == (
        node("web"),
        "stream:42",
        "stream",
        "uid 1000",
    )


def test_the_intent_held_the_bytes_that_were_signed() -> None:
    world = World()
    (answer,) = issued(world)
    signed = x509.load_der_x509_certificate(answer.certificate.der)
    assert world.ledger.tbs[answer.certificate.serial] == signed.tbs_certificate_bytes


def test_the_chain_is_leaf_then_issuing_ca_and_no_root() -> None:
    world = World()
    (answer,) = issued(world)
    chain = x509.load_pem_x509_certificates(answer.chain_pem)
    ders = [certificate.public_bytes(Encoding.DER) for certificate in chain]
    assert ders == [answer.certificate.der, world.created.issuing.certificate]


def test_a_leaf_is_back_dated_and_lives_as_configured() -> None:
    (answer,) = issued(World())
    assert (answer.certificate.not_before, answer.certificate.not_after) == (T0 - BACKDATING, T0 + HOUR)


def test_a_long_ttl_is_capped() -> None:
    (answer,) = issued(World(), request(ttl=timedelta(days=400)))
    assert answer.certificate.not_after == T0 + HOUR


def test_a_leaf_never_outlives_its_issuer() -> None:
    world = World()
    world.clock.at = world.created.issuing.not_after - 20 * SECOND
    (answer,) = issued(world)
    assert answer.certificate.not_after == world.created.issuing.not_after


def test_nothing_is_issued_under_an_expired_issuer() -> None:
    world = World()
    world.clock.at = world.created.issuing.not_after
    assert isinstance(refusal(world, request()), NoActiveAuthorityError)


def test_answers_come_in_the_order_of_the_requests() -> None:
    names = [f"n{number}" for number in range(20)]
    answers = issued(World(), *(request(name) for name in names))
    assert [answer.certificate.spiffe_id for answer in answers] == [node(name) for name in names]


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        pytest.param(request(nobody(TRUST_DOMAIN)), IdentityRefusedError, id="nobody"),
        pytest.param(request(TRUST_DOMAIN.id), IdentityRefusedError, id="trust-domain"),
        pytest.param(request(ttl=timedelta(0)), InvalidInputError, id="no-life"),
        pytest.param(request(spki=b"no key"), InvalidInputError, id="no-key"),
    ],
)
def test_a_refused_request_leaves_no_intent_and_an_audit_entry(wanted: IssueRequest, error: type[MeshcaError]) -> None:
    world = World()
    bad, good = world.authority.issue([wanted, request("api")])
    assert isinstance(bad, Refused)
    assert isinstance(bad.error, error)
    assert isinstance(good, Issued)
    assert list(world.ledger.tbs) == [good.certificate.serial]
    assert [(entry.subject, entry.outcome) for entry in world.ledger.audit if entry.action == ISSUE] == [
        (str(wanted.spiffe_id), REFUSED),
        (str(node("api")), OK),
    ]


def test_each_certificate_has_one_audit_entry_with_its_serial() -> None:
    world = World()
    answers = issued(world, request("a"), request("b"))
    entries = [entry for entry in world.ledger.audit if entry.action == ISSUE]
    assert [entry.reason.split()[:2] for entry in entries] == [["serial", a.certificate.serial] for a in answers]
    assert {entry.actor for entry in entries} == {"uid 1000"}


def test_an_empty_batch_does_nothing() -> None:
    world = World()
    before = list(world.ledger.audit)
    assert world.authority.issue([]) == []
    assert world.ledger.audit == before


def test_a_suspended_identity_gets_nothing() -> None:
    world = World()
    world.authority.suspend(node("web"), "keyCompromise", "root")
    assert isinstance(refusal(world, request()), SuspendedError)
    assert world.ledger.tbs == {}
    assert world.ledger.audit[-1].outcome == REFUSED


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        pytest.param(UNREACHABLE, KeyUnavailableError, id="unavailable"),
        pytest.param(RuntimeError("password=hunter2"), SigningFailedError, id="anything"),
    ],
)
def test_a_signer_that_fails_leaves_a_visible_audited_intent(failure: Exception, error: type[MeshcaError]) -> None:
    world = World()
    world.issuing_signer.failing = failure
    refused = refusal(world, request())
    assert isinstance(refused, error)
    (record,) = world.ledger.certificates(ALL)
    assert (record.state, record.certificate) == ("abandoned", b"")
    assert (world.ledger.audit[-1].outcome, record.serial in world.ledger.audit[-1].reason) == (FAILED, True)
    assert "hunter2" not in str(refused) + world.ledger.audit[-1].reason


def test_a_failed_signature_does_not_stop_the_others() -> None:
    world = World()
    sign, calls = world.issuing_signer.sign, iter([0, 1, 0])

    def flaky(data: bytes) -> bytes:
        if next(calls):
            raise UNREACHABLE
        return sign(data)

    world.issuing_signer.sign = flaky  # type: ignore[method-assign]
    answers = world.authority.issue([request("a"), request("b"), request("c")])
    assert [type(answer) for answer in answers] == [Issued, Refused, Issued]


def test_a_signature_of_another_key_is_never_released() -> None:
    world = World()
    world.issuing_signer.key = world.root_signer.key
    assert isinstance(refusal(world, request()), MisissueError)
    assert world.ledger.audit[-1].outcome == FAILED


def test_a_key_that_is_not_open_is_a_clear_error() -> None:
    world = World()
    del world.keys.signers[world.created.issuing.key_ref]
    assert isinstance(refusal(world, request()), KeyUnavailableError)


@pytest.mark.parametrize("suspend", [False, True])
def test_a_revocation_between_intent_and_result_wins(suspend: bool) -> None:
    world = World()
    sign = world.issuing_signer.sign

    def revoked_meanwhile(data: bytes) -> bytes:
        (pending,) = world.ledger.certificates(ALL)
        if suspend:
            world.authority.suspend(node("web"), "keyCompromise", "root")
        else:
            world.authority.revoke(pending.serial, "keyCompromise", "root")
        return sign(data)

    world.issuing_signer.sign = revoked_meanwhile  # type: ignore[method-assign]
    assert isinstance(refusal(world, request()), RevokedBeforeReleaseError)
    world.issuing_signer.sign = sign  # type: ignore[method-assign]
    (record,) = world.ledger.certificates(ALL)
    assert (record.state, record.status(world.clock.now()), record.certificate) == ("pending", "revoked", b"")
    trust = world.authority.publish_crls()
    parsed = x509.load_der_x509_crl(trust.crls[trust.active.id].der)
    assert [entry.serial_number for entry in parsed] == [int(record.serial, 16)]


def test_intents_are_committed_before_anything_is_signed() -> None:
    world = World()
    known_at_signature: list[int] = []
    sign = world.issuing_signer.sign

    def watching(data: bytes) -> bytes:
        known_at_signature.append(len(world.ledger.certificates(ALL)))
        return sign(data)

    world.issuing_signer.sign = watching  # type: ignore[method-assign]
    issued(world, request("a"), request("b"))
    assert known_at_signature == [2, 2]


def test_without_a_ledger_nothing_is_signed() -> None:
    world = World()
    before = world.issuing_signer.signatures

    def full_disk(_: object) -> list[bool]:
        raise UnavailableError("the disk is full")

    world.ledger.record_intents = full_disk  # type: ignore[method-assign, assignment]
    with pytest.raises(UnavailableError):
        world.authority.issue([request()])
    assert world.issuing_signer.signatures == before


def test_a_result_that_cannot_be_committed_is_not_released_and_stays_pending() -> None:
    world = World()

    def full_disk(*_: object) -> list[bool]:
        raise UnavailableError("the disk is full")

    world.ledger.record_results = full_disk  # type: ignore[method-assign, assignment]
    with pytest.raises(UnavailableError):
        world.authority.issue([request()])
    (record,) = world.restarted().start()
    assert (record.state, record.certificate) == ("pending", b"")
    assert world.authority.revoke(record.serial, "superseded", "root").serials == (record.serial,)


def test_one_call_for_all_intents_and_one_for_all_results() -> None:
    world = World()
    batches: list[int] = []
    record_intents, record_results = world.ledger.record_intents, world.ledger.record_results

    def count_intents(intents: list[Intent]) -> list[bool]:
        batches.append(len(intents))
        return record_intents(intents)

    def count_results(results: list[object], audit: object) -> list[bool]:
        batches.append(len(results))
        return record_results(results, audit)  # type: ignore[arg-type]

    world.ledger.record_intents = count_intents  # type: ignore[method-assign, assignment]
    world.ledger.record_results = count_results  # type: ignore[method-assign, assignment]
    issued(world, *(request() for _ in range(50)))
    assert batches == [50, 50]


def test_narrower_profiles_overrule_the_realms_lives() -> None:
    world = World()
    short = Lifetimes(leaf=timedelta(minutes=5))
    world.settings = Settings(profiles_in_force(short))
    (answer,) = world.restarted().issue([request(ttl=HOUR)])
    assert isinstance(answer, Issued)
    assert answer.certificate.not_after == T0 + timedelta(minutes=5)


def test_an_intent_that_expired_is_no_longer_unfinished() -> None:
    world = World()

    def full_disk(*_: object) -> list[bool]:
        raise UnavailableError("the disk is full")

    world.ledger.record_results = full_disk  # type: ignore[method-assign, assignment]
    with pytest.raises(UnavailableError):
        world.authority.issue([request()])
    world.clock.move(HOUR)
    assert world.restarted().start() == ()


def test_threads_share_one_authority() -> None:
    world = World()
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda n: issued(world, request(f"a{n}"), request(f"b{n}")), range(20)))
    serials = {answer.certificate.serial for batch in batches for answer in batch}
    assert serials == {record.serial for record in world.ledger.certificates(ALL)}
    assert len(serials) == 40
