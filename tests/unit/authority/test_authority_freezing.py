from __future__ import annotations

from datetime import timedelta

import pytest
from fakes.ca import T0, World, node, request

from meshca.authority.audit import OK, REFUSED
from meshca.authority.freezing import FrozenError
from meshca.authority.issuing import RevokedBeforeReleaseError
from meshca.authority.ports import Signer
from meshca.authority.records import AuthorityRecord, Freeze
from meshca.authority.requests import Issued, Refused
from meshca.errors import ConflictError, InvalidInputError, RefusedError


def test_nothing_is_issued_between_freeze_and_unfreeze() -> None:
    world = World()
    assert world.authority.freezing.freeze("a leak is suspected", "uid:0") == Freeze(T0, "uid:0", "a leak is suspected")
    for answer in world.authority.issue([request("front"), request("back")]):
        assert isinstance(answer, Refused)
        assert isinstance(answer.error, FrozenError)
        assert isinstance(answer.error, RefusedError)
        assert str(answer.error) == (
            f"issuance is frozen since {T0.isoformat()} by uid:0: a leak is suspected; `meshca unfreeze` ends that"
        )
    world.authority.freezing.unfreeze("uid:0")
    assert world.authority.freezing.frozen() is None
    (answer,) = world.authority.issue([request("front")])
    assert isinstance(answer, Issued)


def test_both_ways_and_each_refusal_are_audited() -> None:
    world = World()
    freezing = world.authority.freezing
    freezing.freeze("why", "uid:0")
    with pytest.raises(ConflictError, match=r"issuance is frozen since .* by uid:0: why; nothing was changed"):
        freezing.freeze("another", "uid:1")
    world.authority.issue([request("front")])
    freezing.unfreeze("uid:0")
    with pytest.raises(ConflictError, match="not frozen"):
        freezing.unfreeze("uid:1")
    entries = [(entry.action, entry.outcome, entry.actor) for entry in world.ledger.audit[1:]]
    assert entries == [
        ("freeze", OK, "uid:0"),
        ("freeze", REFUSED, "uid:1"),
        ("issue", REFUSED, "uid 1000"),
        ("unfreeze", OK, "uid:0"),
        ("unfreeze", REFUSED, "uid:1"),
    ]


@pytest.mark.parametrize("reason", ["two\nlines", "x" * 513, "\x1b[2J"])
def test_a_reason_is_one_printable_line(reason: str) -> None:
    world = World()
    with pytest.raises(InvalidInputError, match="one printable line"):
        world.authority.freezing.freeze(reason, "uid:0")
    assert world.authority.freezing.frozen() is None


def test_revocation_suspension_and_crls_go_on() -> None:
    world = World()
    (made,) = world.authority.issue([request("front")])
    assert isinstance(made, Issued)
    world.authority.freezing.freeze("", "uid:0")
    before = world.authority.trust.crl_number
    world.authority.revoke(made.certificate.serial, "keyCompromise", "uid:0")
    world.authority.suspend(node("back"), "keyCompromise", "uid:0")
    assert world.authority.publish_crls().crl_number > before
    world.authority.resume(node("back"), "uid:0")
    (answer,) = world.authority.issue([request("back")])
    assert isinstance(answer, Refused)
    assert isinstance(answer.error, FrozenError)


def test_a_freeze_between_intent_and_result_wins() -> None:
    world = World()
    signer = world.keys.signer

    def freeze_first(record: AuthorityRecord) -> Signer:
        if world.authority.freezing.frozen() is None:
            world.authority.freezing.freeze("", "uid:0")
        return signer(record)

    world.keys.signer = freeze_first  # type: ignore[method-assign, assignment]
    (answer,) = world.authority.issue([request("front")])
    assert isinstance(answer, Refused)
    assert isinstance(answer.error, RevokedBeforeReleaseError)
    world.clock.move(timedelta(seconds=1))
    assert [record.state for record in world.authority.start()] == ["pending"]
