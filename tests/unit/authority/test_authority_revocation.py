from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from fakes.ca import T0, TRUST_DOMAIN, World, node, request

from meshca.authority.audit import OK, REFUSED, RESUME, REVOKE, SUSPEND
from meshca.authority.authority import NoRealmError
from meshca.authority.create import Created
from meshca.authority.events import LeafRevoked, Resumed
from meshca.authority.records import CertificateFilter
from meshca.authority.requests import Issued
from meshca.authority.revoking import Revoked
from meshca.errors import ConflictError, InvalidInputError, MeshcaError, NotFoundError
from meshca.spiffe.id import SpiffeId, TrustDomain


def issue(world: World, name: str = "web") -> str:
    (answer,) = world.authority.issue([request(name)])
    assert isinstance(answer, Issued)
    return answer.certificate.serial


def status(world: World, serial: str) -> str:
    record = world.ledger.certificate(serial)
    assert record is not None
    return record.status(world.clock.now())


def test_revoking_a_serial_kills_that_certificate_only() -> None:
    world = World()
    leaked, other = issue(world), issue(world)
    assert world.authority.revoke(leaked, "keyCompromise", "root") == Revoked((leaked,), node("web"), suspended=False)
    assert (status(world, leaked), status(world, other)) == ("revoked", "valid")
    assert world.events == [LeafRevoked(frozenset([leaked]), node("web"), suspended=False)]
    assert world.ledger.epochs == {f"identity:{node('web')}": 1}
    entry = world.ledger.audit[-1]
    assert (entry.action, entry.subject, entry.outcome, entry.actor) == (REVOKE, str(node("web")), OK, "root")
    assert entry.reason == f"serial {leaked}: keyCompromise"
    issue(world)


def test_revoking_twice_changes_nothing_more() -> None:
    world = World()
    serial = issue(world)
    world.authority.revoke(serial, "keyCompromise", "root")
    first, audit, events = world.ledger.certificate(serial), list(world.ledger.audit), list(world.events)
    world.clock.move(timedelta(seconds=5))
    again = world.authority.revoke(serial, "superseded", "root")
    assert again == Revoked((), node("web"), suspended=False, already=(serial,))
    assert (world.ledger.certificate(serial), world.ledger.audit, world.events) == (first, audit, events)


@pytest.mark.parametrize(
    ("serial", "reason", "error"),
    [
        pytest.param("00ab", "keyCompromise", InvalidInputError, id="leading-zero"),
        pytest.param("AB", "keyCompromise", InvalidInputError, id="upper-case"),
        pytest.param("ab\n", "keyCompromise", InvalidInputError, id="newline"),
        pytest.param("", "keyCompromise", InvalidInputError, id="empty"),
        pytest.param("abcd", "certificateHold", InvalidInputError, id="hold"),
        pytest.param("abcd", "keyCompromise", NotFoundError, id="unknown"),
    ],
)
def test_what_cannot_be_revoked(serial: str, reason: str, error: type[MeshcaError]) -> None:
    world = World()
    with pytest.raises(error):
        world.authority.revoke(serial, reason, "root")
    assert world.events == []


def test_an_unknown_serial_is_audited() -> None:
    world = World()
    with pytest.raises(NotFoundError):
        world.authority.revoke("abcd", "keyCompromise", "root")
    assert (world.ledger.audit[-1].action, world.ledger.audit[-1].outcome) == (REVOKE, REFUSED)


def test_an_expired_certificate_needs_no_revocation() -> None:
    world = World()
    serial = issue(world)
    world.clock.move(timedelta(hours=1))
    with pytest.raises(ConflictError, match="expired"):
        world.authority.revoke(serial, "keyCompromise", "root")
    assert (status(world, serial), world.ledger.audit[-1].outcome) == ("expired", REFUSED)


def test_suspending_revokes_all_of_the_identity_and_nothing_else() -> None:
    world = World()
    mine, other = [issue(world), issue(world)], issue(world, "api")
    result = world.authority.suspend(node("web"), "keyCompromise", "root")
    assert (set(result.serials), result.spiffe_id, result.suspended) == (set(mine), node("web"), True)
    assert [status(world, serial) for serial in [*mine, other]] == ["revoked", "revoked", "valid"]
    assert world.authority.suspended() == {node("web")}
    assert world.events == [LeafRevoked(frozenset(mine), node("web"), suspended=True)]
    assert [entry.action for entry in world.ledger.audit[-3:]] == [SUSPEND, REVOKE, REVOKE]
    assert world.ledger.epochs == {f"identity:{node('web')}": 1}


def test_an_identity_without_certificates_can_be_suspended() -> None:
    world = World()
    world.authority.suspend(node("web"), "", "root")
    assert world.events == [LeafRevoked(frozenset(), node("web"), suspended=True)]
    assert world.ledger.epochs == {f"identity:{node('web')}": 1}


@pytest.mark.parametrize("spiffe_id", [SpiffeId(TrustDomain("other.test"), "/a"), TRUST_DOMAIN.id])
def test_only_identities_of_ours_are_suspended(spiffe_id: SpiffeId) -> None:
    world = World()
    with pytest.raises(InvalidInputError):
        world.authority.suspend(spiffe_id, "keyCompromise", "root")
    assert world.authority.suspended() == frozenset()


def test_resuming_lets_new_certificates_be_issued_and_revives_none() -> None:
    world = World()
    dead = issue(world)
    world.authority.suspend(node("web"), "keyCompromise", "root")
    world.authority.resume(node("web"), "root")
    assert world.events[-1] == Resumed(node("web"))
    assert (world.ledger.audit[-1].action, world.ledger.audit[-1].outcome) == (RESUME, OK)
    assert (status(world, dead), status(world, issue(world))) == ("revoked", "valid")


def test_resuming_what_is_not_suspended_is_refused_and_audited() -> None:
    world = World()
    with pytest.raises(ConflictError):
        world.authority.resume(node("web"), "root")
    assert (world.ledger.audit[-1].action, world.ledger.audit[-1].outcome) == (RESUME, REFUSED)
    assert world.events == []


def test_events_come_after_the_commit() -> None:
    world = World()
    serial = issue(world)
    seen: list[str] = []
    world.authority.subscribe(lambda _: seen.append(status(world, serial)))
    world.authority.revoke(serial, "keyCompromise", "root")
    assert seen == ["revoked"]


def test_a_subscriber_that_raises_takes_nothing_from_the_next() -> None:
    world = World()
    seen: list[object] = []

    def broken(_: object) -> None:
        raise RuntimeError("subscriber bug")

    world.authority.subscribe(broken)
    world.authority.subscribe(seen.append)
    world.authority.suspend(node("web"), "keyCompromise", "root")
    assert len(seen) == 1


def test_an_authority_needs_a_realm() -> None:
    world = World()
    world.ledger._realm = None
    with pytest.raises(NoRealmError, match="meshca init"):
        world.restarted()


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        pytest.param(lambda world, serial: None, "valid", id="issued"),
        pytest.param(lambda world, serial: world.authority.revoke(serial, "", "root"), "revoked", id="revoked"),
        pytest.param(lambda world, serial: world.clock.move(timedelta(hours=1)), "expired", id="expired"),
    ],
)
def test_certificates_are_listed_by_status(act: Callable[[World, str], object], expected: str) -> None:
    world = World()
    serial = issue(world)
    act(world, serial)
    for wanted in ("valid", "revoked", "expired", "pending", "abandoned"):
        listed = world.authority.certificates(CertificateFilter(at=world.clock.now(), status=wanted))
        assert [record.serial for record in listed] == ([serial] if wanted == expected else [])


def test_pages_join_to_the_whole() -> None:
    world = World()
    serials = [issue(world, f"n{number}") for number in range(5)]
    paged: list[str] = []
    while page := world.authority.certificates(CertificateFilter(at=T0, after=paged[-1] if paged else "", limit=2)):
        paged += [record.serial for record in page]
    assert paged == serials


def test_what_was_created_is_recorded() -> None:
    world = World()
    assert isinstance(world.created, Created)
    assert [record.id for record in world.ledger.authorities()] == sorted(
        [world.created.root.id, world.created.issuing.id]
    )
