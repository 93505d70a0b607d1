"""DNS names and profiles on a real server: who gets which names, and what configuration narrows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from fakes.server_world import BACK, FRONT, FRONT_ID, Admin, Envoy, leaf_of, server, shop_with, temporary_home
from fakes.server_world import signing_request as wish

from meshca.authority.lifetimes import LifetimeError
from meshca.authority.profiles import Limits, ProfileError
from meshca.client.values import Issued
from meshca.errors import InvalidInputError, MeshcaError, RefusedError

DNS, URI = x509.DNSName, x509.UniformResourceIdentifier
DOOR = "mesh/shop/virtualGateway/door"


async def named_shop(admin: Admin, *entitled: str) -> None:
    """Apply a shop whose nodes have host names: two versions of the front share one."""
    await shop_with(admin, *entitled)
    (front,) = await admin.get("virtualNode", "front")
    spec: dict[str, Any] = {**front["spec"], "serviceDiscovery": {"dns": {"hostname": "Front.Shop.Test."}}}
    envelope = {"kind": "virtualNode", "meshName": "shop", "spec": spec}
    door = {"listeners": [{"portMapping": {"port": 443, "protocol": "http"}}]}
    await admin.apply([
        {**envelope, "virtualNodeName": "front"},
        {**envelope, "virtualNodeName": "front-v2"},
        {"kind": "virtualGateway", "meshName": "shop", "virtualGatewayName": "door", "spec": door},
    ])  # fmt: skip


def leaf_names(answer: Issued | MeshcaError) -> tuple[str, ...]:
    assert isinstance(answer, Issued), answer
    (leaf, _) = x509.load_pem_x509_certificates(answer.chain)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(URI) == [answer.spiffe_id]
    return tuple(names.get_values_for_type(DNS))


async def test_a_node_gets_its_own_host_name_and_no_other() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await named_shop(admin)
            good = await admin.issue([
                wish(FRONT),
                replace(wish(FRONT), dns_names=("front.shop.test",)),
                wish(FRONT, DNS("FRONT.shop.test")),
                replace(wish(FRONT, URI(FRONT_ID), DNS("front.shop.test")), dns_names=("Front.shop.test",)),
                replace(wish("front-v2"), dns_names=("front.shop.test",)),
            ])  # fmt: skip
            assert [leaf_names(answer) for answer in good] == [(), *[("front.shop.test",)] * 4]
            bad = await admin.issue([
                replace(wish(FRONT), dns_names=("front.shop.test", "back.shop")),
                wish(FRONT, DNS("*.shop.test")),
                wish(BACK, DNS("127.0.0.1")),
                wish(DOOR, DNS("front.shop.test")),
            ])  # fmt: skip
            assert all(isinstance(answer, RefusedError) for answer in bad)
            texts = [str(answer) for answer in bad]
            assert texts[0].startswith(f"DNS name: not one of {FRONT_ID}: spec.serviceDiscovery.dns.hostname of ")
            assert "is front.shop.test (got 'back.shop'); ask for the node's own host name" in texts[0]
            assert "'*.shop.test'" in texts[1]
            assert "'127.0.0.1'" in texts[2]
            assert "a gateway has no DNS names" in texts[3]
            refused = [r for r in await admin.audit_tail(4) if r.outcome == "refused"]
            assert [record.action for record in refused] == ["issue"] * 4
            assert "back.shop" in refused[0].reason
            (other,) = await admin.issue([wish(FRONT, URI("spiffe://shop.test/mesh/shop/virtualNode/back"))])
            assert isinstance(other, InvalidInputError)


async def test_streams_get_no_dns_name() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await named_shop(admin, FRONT)
            async with Envoy(home.mesh_socket, FRONT) as envoy:
                await envoy.ask("default")
                leaf = x509.load_pem_x509_certificates(leaf_of((await envoy.secrets())["default"]))[0]
            assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
                DNS
            ) == []  # fmt: skip


async def test_configuration_narrows_what_leaves_may_be() -> None:
    limits = Limits(max_ttl=timedelta(minutes=5), key_types=("ec-p384",), dns_names=False)
    with temporary_home() as home:
        async with server(home, profiles={"svid": limits}) as (parts, admin):
            await named_shop(admin, FRONT)
            assert parts.house.authority.lifetimes.leaf == timedelta(minutes=5)
            assert (await admin.resolve(FRONT)).key_types == ("ec-p384",)
            p384 = wish(FRONT, curve=ec.SECP384R1())
            wishes = [replace(p384, dns_names=("front.shop.test",)), wish(FRONT), p384]
            named, small, fine, long = await admin.issue([*wishes, replace(p384, ttl=timedelta(hours=1))])
            assert "L06 dns_names_are_the_profiles" in str(named)
            assert "B08 key_type_is_the_profiles" in str(small)
            assert "ec-p384" in str(small)
            assert isinstance(fine, Issued)
            assert isinstance(long, Issued)
            assert long.not_after - fine.not_after <= timedelta(seconds=1)
            async with Envoy(home.mesh_socket, FRONT) as envoy:
                await envoy.ask("default")
                leaf = x509.load_pem_x509_certificates(leaf_of((await envoy.secrets())["default"]))[0]
            key = leaf.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            assert key.curve.name == "secp384r1"


@pytest.mark.parametrize(
    ("profiles", "kind", "words"),
    [
        ({"svid": Limits(max_ttl=timedelta(hours=2))}, ProfileError, "profiles.svid.max_ttl"),
        ({"issuing": Limits(max_ttl=timedelta(hours=2))}, LifetimeError, "longer than a third"),
        ({"admin": Limits(dns_names=True)}, ProfileError, "profiles.admin.dns_names"),
    ],
)
async def test_what_would_loosen_a_profile_is_an_error_at_start(
    profiles: dict[str, Limits], kind: type[MeshcaError], words: str
) -> None:
    with temporary_home() as home, pytest.raises(kind, match=words):
        async with server(home, profiles=profiles):
            pass
