"""Whatever happens in whatever order, the promises of the CA hold."""

from __future__ import annotations

from datetime import timedelta

from cryptography import x509
from fakes.ca import UNREACHABLE, World, node, request
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshca.authority.events import TrustChanged
from meshca.authority.records import CertificateFilter
from meshca.authority.requests import Issued
from meshca.errors import ConflictError, MeshcaError

NAMES = st.sampled_from(["a", "b", "c"])


class Life(RuleBasedStateMachine):
    """Issue, revoke, suspend, resume, publish, fail, crash and wait, in any order."""

    @initialize()
    def make(self) -> None:
        self.world = World()
        self.released: dict[str, bytes] = {}
        self.numbers: dict[str, int] = {}
        self.suspended: set[str] = set()

    @rule(names=st.lists(NAMES, min_size=1, max_size=4))
    def issue(self, names: list[str]) -> None:
        answers = self.world.authority.issue([request(name) for name in names])
        assert len(answers) == len(names)
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, Issued):
                assert name not in self.suspended
                self.released[answer.certificate.serial] = answer.certificate.der

    @rule(names=st.lists(NAMES, min_size=1, max_size=3), victim=NAMES, suspend=st.booleans())
    def revoke_between_intent_and_result(self, names: list[str], victim: str, suspend: bool) -> None:
        sign = self.world.issuing_signer.sign

        def signing(data: bytes) -> bytes:
            self.world.issuing_signer.sign = sign  # type: ignore[method-assign]
            if suspend:
                self.suspend(victim)
            else:
                self.revoke_one_of(victim)
            return sign(data)

        before = set(self.suspended)
        self.world.issuing_signer.sign = signing  # type: ignore[method-assign]
        answers = self.world.authority.issue([request(name) for name in names])
        self.world.issuing_signer.sign = sign  # type: ignore[method-assign]
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, Issued):
                assert name not in before
                assert name not in self.suspended
                self.released[answer.certificate.serial] = answer.certificate.der

    @rule(name=NAMES)
    def revoke_one_of(self, name: str) -> None:
        own = CertificateFilter(at=self.world.clock.now(), spiffe_id=node(name))
        for record in self.world.ledger.certificates(own)[-1:]:
            try:
                self.world.authority.revoke(record.serial, "keyCompromise", "test")
            except ConflictError:
                assert record.not_after <= self.world.clock.now()

    @rule(name=NAMES)
    def suspend(self, name: str) -> None:
        self.world.authority.suspend(node(name), "privilegeWithdrawn", "test")
        self.suspended.add(name)

    @precondition(lambda self: self.suspended)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.suspended)))
        self.world.authority.resume(node(name), "test")
        self.suspended.discard(name)

    @rule()
    def publish(self) -> None:
        trust = self.world.authority.publish_crls()
        trust.require_sound(self.world.clock.now())
        listed = {entry.serial_number for crl in trust.crls.values() for entry in x509.load_der_x509_crl(crl.der)}
        now = self.world.clock.now()
        for record in self.world.ledger.certificates(CertificateFilter(at=now, status="revoked")):
            assert int(record.serial, 16) in listed or record.not_after <= now

    @rule()
    def publish_with_a_dead_key(self) -> None:
        signer, before = self.world.issuing_signer, self.world.authority.trust
        signer.failing = UNREACHABLE
        try:
            self.world.authority.publish_crls()
        except MeshcaError:
            assert self.world.authority.trust is before
        signer.failing = None

    @rule(names=st.lists(NAMES, min_size=1, max_size=3))
    def issue_with_a_dead_key(self, names: list[str]) -> None:
        self.world.issuing_signer.failing = UNREACHABLE
        answers = self.world.authority.issue([request(name) for name in names])
        assert not any(isinstance(answer, Issued) for answer in answers)
        self.world.issuing_signer.failing = None

    @rule()
    def crash(self) -> None:
        self.world.restarted().start()

    @rule(minutes=st.sampled_from([1, 7, 61]))
    def wait(self, minutes: int) -> None:
        self.world.clock.move(timedelta(minutes=minutes))

    @invariant()
    def what_was_released_is_in_the_ledger(self) -> None:
        for serial, der in self.released.items():
            record = self.world.ledger.certificate(serial)
            assert record is not None
            assert (record.state, record.certificate) == ("issued", der)

    @invariant()
    def a_suspended_identity_holds_nothing_valid(self) -> None:
        now = self.world.clock.now()
        for name in self.suspended:
            own = self.world.ledger.certificates(CertificateFilter(at=now, spiffe_id=node(name)))
            assert all(record.status(now) in ("revoked", "expired") or record.not_after <= now for record in own)

    @invariant()
    def numbers_and_generations_only_grow(self) -> None:
        for issuer_id, crls in self.world.ledger.crls.items():
            numbers = [crl.number for crl in crls]
            assert numbers == list(range(1, len(numbers) + 1))
            assert numbers[-1] >= self.numbers.get(issuer_id, 0)
            self.numbers[issuer_id] = numbers[-1]
        emitted = [event.trust.generation for event in self.world.events if isinstance(event, TrustChanged)]
        assert emitted == sorted(set(emitted))


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
