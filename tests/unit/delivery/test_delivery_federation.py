"""Other trust domains in contexts: each is believed about its own identities alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_spiffe_validator_config_pb2
from fakes.delivery_world import SHOP, Hall, spiffe_id, virtual_node
from harness.strangers import Stranger

from meshca.delivery.callers import NotEntitledError, as_node
from meshca.delivery.contexts import Wanted
from meshca.delivery.naming import all_names, resolve
from meshca.envoy.names import client_name
from meshca.mesh.model import ObjectKey
from meshca.spiffe import foreign
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.xds.resource import SDS

E, N = TrustDomain("e.test"), TrustDomain("n.test")
BUNDLES = {td: foreign.parse(Stranger(td.name).bundle, td) for td in (E, N)}
FRIEND, OTHER = SpiffeId.parse("spiffe://e.test/friend"), SpiffeId.parse("spiffe://n.test/other")
FRONT, BACK = spiffe_id("front"), spiffe_id("back")


def _hall(*sans: SpiffeId, federated: Any = BUNDLES) -> Hall:
    others = (one for one in SHOP if one.get("virtualNodeName") != "back")
    hall = Hall(*others, virtual_node("back", sans=list(map(str, sans))), entitled=["back"])
    hall.change(federated=federated)
    return hall


def _resolved(hall: Hall, name: str) -> Any:
    return resolve(name, as_node(BACK, ObjectKey("shop", "virtualNode", "", "back")), hall.desk.snapshot)


@pytest.mark.parametrize(
    ("sans", "admitted", "domains"),
    [
        ((FRIEND,), {FRIEND}, (E,)),
        ((FRIEND, OTHER), {FRIEND, OTHER}, (E, N)),
        ((FRIEND, FRONT), {FRONT}, ()),
        ((FRIEND, FRONT, OTHER), {FRONT}, ()),
    ],
)
def test_ours_go_first_and_alone(
    sans: tuple[SpiffeId, ...], admitted: set[SpiffeId], domains: tuple[TrustDomain, ...]
) -> None:
    assert _resolved(_hall(*sans), "clients") == Wanted("clients", frozenset(admitted), domains)


def test_one_client_is_admitted_by_the_roots_of_its_own_trust_domain() -> None:
    hall = _hall(FRIEND, FRONT)
    assert _resolved(hall, client_name(FRIEND)).domains == (E,)
    assert _resolved(hall, client_name(FRONT)).domains == ()
    assert _resolved(hall, client_name(OTHER)).admitted == frozenset()


def test_who_is_not_federated_is_nobody() -> None:
    hall = _hall(FRIEND, OTHER, federated={N: BUNDLES[N]})
    assert _resolved(hall, "clients") == Wanted("clients", frozenset({OTHER}), (N,))
    assert _resolved(hall, client_name(FRIEND)) == Wanted(client_name(FRIEND), frozenset())


@pytest.mark.parametrize("name", ["spiffe://e.test", "spiffe://n.test"])
def test_nobody_has_a_bundle_by_default(name: str) -> None:
    hall = _hall()
    with pytest.raises(NotEntitledError):
        _resolved(hall, name)
    assert name not in all_names(as_node(BACK, ObjectKey("shop", "virtualNode", "", "back")), hall.desk.snapshot)


def _federate(hall: Hall, *domains: TrustDomain) -> None:
    entries = hall.desk.snapshot.registrations
    hall.change(registrations=tuple(replace(entry, federates_with=frozenset(domains)) for entry in entries))


def _context(body: bytes) -> tuple[Any, dict[str, bytes]]:
    context = secret_pb2.Secret.FromString(body).validation_context
    config = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig()
    context.custom_validator_config.typed_config.Unpack(config)
    return context, {one.name: one.trust_bundle.inline_bytes for one in config.trust_domains}


async def _sent(hall: Hall, view: Any, name: str) -> tuple[Any, dict[str, bytes]]:
    found = await view.fetch(SDS, frozenset({name}), {})
    return _context(found.resources[name].body)


async def test_contexts_hold_each_bundle_under_its_own_name() -> None:
    hall = _hall(FRIEND, OTHER)
    _federate(hall, E)
    view = await hall.open("back", dedicated=False)
    _, bundles = await _sent(hall, view, "ALL")
    own = hall.desk.snapshot.trust
    assert bundles == {str(hall.desk.snapshot.trust_domain): own.bundle_pem, "e.test": BUNDLES[E].pem}
    _, bundles = await _sent(hall, view, "spiffe://e.test")
    assert bundles == {"e.test": BUNDLES[E].pem}
    context, bundles = await _sent(hall, view, "clients")
    assert bundles == {"e.test": BUNDLES[E].pem, "n.test": BUNDLES[N].pem}
    assert [one.matcher.exact for one in context.match_typed_subject_alt_names] == sorted(map(str, (FRIEND, OTHER)))
    assert not context.trusted_ca.inline_bytes


async def test_what_was_given_and_may_be_had_no_longer_becomes_nobodys() -> None:
    hall = _hall(FRIEND)
    _federate(hall, E)
    view = await hall.open("back", dedicated=False)
    await _sent(hall, view, "spiffe://e.test")
    _federate(hall)
    assert await view.next_change() == frozenset({SDS})
    context, bundles = await _sent(hall, view, "spiffe://e.test")
    assert bundles == {}
    assert next(one.matcher.exact for one in context.match_typed_subject_alt_names).endswith("/meshca/nobody")
    fresh = await hall.open("back", dedicated=False)
    refused = (await fresh.fetch(SDS, frozenset({"spiffe://e.test"}), {})).refused
    assert set(refused) == {"spiffe://e.test"}
    knowing = await hall.open("back", dedicated=False)  # a delta client that says what it holds
    found = await knowing.fetch(SDS, frozenset({"spiffe://e.test"}), {"spiffe://e.test": "v"})
    assert _context(found.resources["spiffe://e.test"].body)[1] == {}


async def test_a_suspended_caller_has_no_bundle_of_others() -> None:
    hall = _hall(FRIEND)
    _federate(hall, E)
    view = await hall.open("back", dedicated=False)
    hall.change(suspended=frozenset({BACK}))
    context, bundles = await _sent(hall, view, "spiffe://e.test")
    assert bundles == {}
    assert context.match_typed_subject_alt_names


async def test_trust_of_others_alone_acknowledges_our_generations() -> None:
    """Else a client that calls another trust domain alone would hold up every rotation of ours."""
    hall = _hall(FRIEND)
    view = await hall.open("back", dedicated=False)
    for _ in range(2):
        resources = (await view.fetch(SDS, frozenset({"default", "clients"}), {})).resources
        view.acknowledged(SDS, resources)
        generation = hall.desk.snapshot.trust.generation
        assert set(hall.notes.in_force.values()) == {generation}
        trust = hall.desk.snapshot.trust
        hall.change(trust=replace(trust, generation=generation + 1, crl_pem=trust.crl_pem + b"# later\n"))
