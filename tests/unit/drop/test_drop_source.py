"""Material from the admin API, made by a real CA: renewal, trust, revocation, matching."""

from __future__ import annotations

import queue
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from fakes.ca import World, node
from fakes.ca import request as ca_request

from meshca.client.sds import Secrets
from meshca.client.values import Issued, SigningRequest, Trust
from meshca.drop.attested import AttestedSource
from meshca.drop.material import Material, MismatchError, crl_ders, pkcs8
from meshca.drop.source import AdminSource, Renewal, Wish, issue_with_new_key
from meshca.errors import MeshcaError, RefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FRONT = str(node("front"))
PATIENCE = 10.0


@dataclass
class Api:
    """The admin API over a CA in memory; ``send`` pushes trust to whoever watches, ``end`` ends the stream."""

    world: World = field(default_factory=World)
    refusal: MeshcaError | None = None
    acknowledged: list[int] = field(default_factory=list)
    feed: queue.SimpleQueue[Trust | MeshcaError] = field(default_factory=queue.SimpleQueue)
    issued: int = 0
    chance: float = 0.5

    def source(self) -> AdminSource:
        renewal = Renewal(self.world.clock.now, lambda: self.chance)
        return AdminSource(self, Wish("front", "drop:/d"), FRONT, renewal)

    def trust(self) -> Trust:
        trust = self.world.authority.trust
        return Trust(trust.generation, trust.bundle_pem, trust.crl_pem)

    def send(self, trust: Trust | MeshcaError | None = None) -> None:
        self.feed.put(trust or self.trust())

    def watch_trust(self, holder: str, spiffe_id: str = "") -> Iterator[Trust]:
        assert (holder, spiffe_id) == ("drop:/d", FRONT)
        while True:
            found = self.feed.get()
            if isinstance(found, MeshcaError):
                raise found
            yield found

    def issue(self, requests: Sequence[SigningRequest]) -> list[Issued | MeshcaError]:
        if self.refusal is not None:
            return [self.refusal]
        (asked,) = requests
        self.issued += 1
        spki = (
            x509.load_der_x509_csr(asked.csr).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
        (found,) = self.world.authority.issue([ca_request("front", spki=spki, kind="file")])
        certificate = found.certificate  # type: ignore[union-attr]
        return [
            Issued(certificate.serial, FRONT, certificate.not_before, certificate.not_after, found.chain_pem)  # type: ignore[union-attr]
        ]

    def acknowledge_trust(self, holder: str, spiffe_id: str, generation: int, serial: str = "") -> None:
        assert self.world.ledger.certificate(serial) is not None
        self.acknowledged.append(generation)


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()
    yield api
    api.send(UnavailableError("the test is over"))


def take(source: AdminSource | AttestedSource) -> Material:
    material = source.wait(PATIENCE)
    assert material is not None
    return material


def take_after_failures(source: AdminSource | AttestedSource) -> Material | None:
    """Go on asking, as the loop does, until an answer is none of failure."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return source.wait(PATIENCE)
        except MeshcaError:
            assert time.monotonic() < end


def test_the_first_trust_brings_a_leaf_with_a_key_made_here(api: Api) -> None:
    api.send()
    material = take(api.source())

    assert material.require_matching(api.world.clock.now()) == FRONT
    assert material.key.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert set(material.files()) == {"svid.pem", "svid_key.pem", "bundle.pem", "crl.pem"}
    assert "PRIVATE" not in repr(material)


def test_without_trust_there_is_nothing(api: Api) -> None:
    assert api.source().wait(0) is None
    assert api.issued == 0


def test_changed_trust_keeps_the_leaf(api: Api) -> None:
    api.send()
    source = api.source()
    first = take(source)
    other = issue_with_new_key(api.issue, Wish("front", "other"))[1]
    api.world.authority.revoke(other.serial, "keyCompromise", "test")
    api.world.authority.publish_crls()
    api.send()
    second = take(source)

    assert (second.chain, second.key, second.bundle) == (first.chain, first.key, first.bundle)
    assert second.crl != first.crl


def test_changed_trust_brings_a_new_leaf_where_a_port_has_to_prove_it_and_one_can_be_had(api: Api) -> None:
    api.send()
    source = AdminSource(api, Wish("front", "drop:/d", fresh=True), FRONT, Renewal(api.world.clock.now, lambda: 0.5))
    first = take(source)
    for refusal in (None, RefusedError("frozen")):
        other = issue_with_new_key(api.issue, Wish("front", "other"))[1]
        api.world.authority.revoke(other.serial, "keyCompromise", "test")
        api.world.authority.publish_crls()
        api.refusal = refusal
        api.send()
        second = take(source)
        assert second.crl != first.crl
        assert (second.serial != first.serial) == (refusal is None)
        api.refusal, first = None, second


def test_a_revoked_leaf_is_replaced_at_once(api: Api) -> None:
    api.send()
    source = api.source()
    first = take(source)
    api.world.authority.revoke(first.serial, "keyCompromise", "test")
    api.world.authority.publish_crls()
    api.send(replace(api.trust(), revoked=(first.serial,)))
    second = take(source)

    assert second.serial != first.serial
    assert second.key != first.key
    with pytest.raises(MismatchError, match="revoked"):
        replace(first, crl=second.crl).require_matching(api.world.clock.now())


@pytest.mark.parametrize(("chance", "minutes"), [(0.0, 24), (0.5, 30), (1.0, 36)])
def test_a_leaf_is_renewed_at_half_life_give_or_take_a_tenth(api: Api, chance: float, minutes: int) -> None:
    api.chance = chance
    api.send()
    source = api.source()
    first = take(source)
    due = api.world.clock.at + timedelta(minutes=minutes)

    api.world.clock.at = due - timedelta(seconds=1)
    assert source.wait(0) is None
    api.world.clock.at = due
    assert take(source).serial != first.serial


def test_a_suspended_identity_gets_nothing_until_it_is_resumed(api: Api) -> None:
    api.send(replace(api.trust(), suspended=True))
    source = api.source()

    with pytest.raises(RefusedError, match=r"is suspended.*meshca resume front"):
        source.wait(PATIENCE)
    api.send()
    material = take_after_failures(source)
    assert material is not None
    assert material.require_matching(api.world.clock.now()) == FRONT


def test_a_refusal_is_told_each_time_it_is_asked(api: Api) -> None:
    api.refusal = RefusedError("no")
    api.send()
    source = api.source()
    for _ in range(2):
        with pytest.raises(RefusedError, match="no"):
            source.wait(PATIENCE)
    api.refusal = None
    assert take(source)


def test_trust_of_which_no_material_could_be_made_is_not_acknowledged(api: Api) -> None:
    api.send()
    source = api.source()
    first = take(source)
    api.send(replace(api.trust(), generation=9, revoked=(first.serial,)))
    api.refusal = RefusedError("frozen")
    with pytest.raises(RefusedError, match="frozen"):
        source.wait(PATIENCE)
    source.acknowledge()

    assert api.acknowledged == [api.trust().generation]


def test_a_subject_is_asked_for_where_it_is_wished_for(api: Api) -> None:
    asked: list[SigningRequest] = []

    def issue(requests: Sequence[SigningRequest]) -> list[Issued | MeshcaError]:
        asked.extend(requests)
        return api.issue(requests)

    issue_with_new_key(issue, Wish("front", "drop:/d", subject=FRONT))
    issue_with_new_key(issue, Wish("front", "drop:/d"))
    subjects = [x509.load_der_x509_csr(each.csr).subject.rfc4514_string() for each in asked]
    assert subjects == [f"UID={FRONT}", ""]


def test_a_server_that_comes_back_with_the_same_trust_changes_nothing_and_hears_that_it_is_in_force(api: Api) -> None:
    api.send()
    source = api.source()
    take(source)
    source.acknowledge()
    api.send(UnavailableError("gone"))
    with pytest.raises(UnavailableError, match="gone"):
        source.wait(PATIENCE)
    api.send(replace(api.trust(), generation=9))

    assert source.wait(PATIENCE) is None
    assert api.acknowledged == [api.trust().generation, 9]
    assert api.issued == 1


def test_trust_that_does_not_match_the_leaf_is_not_handed_out(api: Api) -> None:
    api.send()
    source = api.source()
    take(source)
    stranger = World().authority.trust
    api.send(Trust(7, stranger.bundle_pem, stranger.crl_pem))

    with pytest.raises(MismatchError, match="is not good under trust generation 7"):
        source.wait(PATIENCE)
    with pytest.raises(MismatchError):
        source.wait(0)
    api.send()
    # What is in force already is nothing new.
    assert take_after_failures(source) is None


def matching(api: Api) -> Material:
    """Return good material of a source of its own."""
    other = Api(api.world)
    other.send()
    try:
        return take(other.source())
    finally:
        other.send(UnavailableError("enough"))


def test_each_part_of_another_generation_is_found(api: Api) -> None:
    one, two, stranger = matching(api), matching(api), matching(Api())
    now = api.world.clock.now()
    for wrong in (
        replace(one, key=two.key),
        replace(one, chain=two.chain),
        replace(one, bundle=stranger.bundle),
        replace(one, crl=stranger.crl),
        replace(one, crl=b""),
        replace(one, key=b"junk"),
        replace(one, chain=b"junk"),
        replace(one, crl=b"-----BEGIN X509 CRL-----\njunk\n-----END X509 CRL-----\n"),
    ):
        with pytest.raises(MismatchError) as caught:
            wrong.require_matching(now)
        assert "PRIVATE" not in str(caught.value)
    assert one.require_matching(now) == two.require_matching(now) == FRONT


def test_an_expired_leaf_is_found(api: Api) -> None:
    material = matching(api)

    with pytest.raises(MismatchError):
        material.require_matching(api.world.clock.now() + timedelta(hours=2))


def test_all_crls_of_a_pem_text_are_read(api: Api) -> None:
    assert len(crl_ders(api.trust().crl)) == 2
    with pytest.raises(MismatchError):
        pkcs8(b"no key")


@dataclass
class SdsApi:
    """SDS that sends what it is told to."""

    feed: queue.SimpleQueue[Secrets | None] = field(default_factory=queue.SimpleQueue)
    acknowledged: int = 0
    restarts: int = 0

    def restart(self) -> None:
        self.restarts += 1

    def watch(self) -> Iterator[Secrets]:
        return iter(self.feed.get, None)

    def acknowledge(self) -> None:
        self.acknowledged += 1

    def send(self, material: Material, version: str = "1") -> None:
        self.feed.put(Secrets(version, material.chain, material.key, material.bundle, material.crl))


def test_secrets_over_sds_are_material_too(api: Api) -> None:
    first, second = matching(api), matching(api)
    sds = SdsApi()
    source = AttestedSource(sds, api.world.clock.now)
    sds.send(first)
    key = load_pem_private_key(take(source).key, None)
    assert key.public_key() == first.leaf.public_key()
    assert sds.acknowledged == 0
    source.acknowledge()
    sds.send(first, "2")
    assert source.wait(PATIENCE) is None
    assert sds.acknowledged == 2

    sds.send(replace(second, key=first.key))
    with pytest.raises(MismatchError):
        source.wait(PATIENCE)
    with pytest.raises(MismatchError):
        source.wait(PATIENCE)
    sds.send(second)
    assert take_after_failures(source) == second
    sds.feed.put(None)


def test_a_stream_that_is_stuck_behind_a_failing_command_is_begun_anew_once_the_leaf_has_expired(api: Api) -> None:
    sds = SdsApi()
    source = AttestedSource(sds, api.world.clock.now)
    sds.send(matching(api))
    take(source)
    assert source.wait(0) is None
    assert sds.restarts == 0
    api.world.clock.move(timedelta(hours=2))
    assert source.wait(0) is None
    assert sds.restarts == 1
    source.acknowledge()
    assert source.wait(0) is None
    assert sds.restarts == 1
    sds.feed.put(None)
