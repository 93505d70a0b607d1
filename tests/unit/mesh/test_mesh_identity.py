from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import (
    ARN,
    DOMAIN,
    GATEWAY_ID,
    backend,
    client_policy,
    examples,
    gateway,
    key,
    listener,
    mesh_set,
    mutual,
    node,
    service,
    spiffe_id,
)

from meshca.errors import InvalidInputError, NotFoundError
from meshca.mesh.findings import Finding, SpecError
from meshca.mesh.identity import Identities, identities
from meshca.mesh.model import VIRTUAL_GATEWAY, VIRTUAL_SERVICE, MeshObject, ObjectKey
from meshca.mesh.noderef import NodeRef
from meshca.spiffe.id import IdentityError, SpiffeId

OWN = "spiffe://m.test/ns/shop/sa/web"
SERVICES = (service("s"), service("t"))


def of(*objects: MeshObject) -> Identities:
    return identities(mesh_set(*objects, *SERVICES), DOMAIN)


def named(name: str, *secrets: str) -> MeshObject:
    """Return a node whose listeners name these secrets."""
    listeners = [listener(port, tls=mutual(sds=secret)) for port, secret in enumerate(secrets, start=80)]
    return node(name, listeners=tuple(listeners))


def presents(secret: str) -> dict[str, Any]:
    return client_policy(certificate={"sds": {"secretName": secret}})


def refused(*objects: MeshObject) -> list[Finding]:
    with pytest.raises(SpecError) as caught:
        of(*objects)
    return [finding for finding in caught.value.findings if finding.severity == "error"]


def test_an_identity_follows_from_the_resource_name() -> None:
    found = of(node("web"), gateway())
    assert dict(found.ids) == {key("web"): spiffe_id("web"), key("door", VIRTUAL_GATEWAY): GATEWAY_ID}
    assert str(found.of(key("web"))) == "spiffe://m.test/mesh/shop/virtualNode/web"
    assert found.holder(GATEWAY_ID) == key("door", VIRTUAL_GATEWAY)
    assert found.holder(SpiffeId(DOMAIN, "/x")) is None
    assert found.findings == ()


@pytest.mark.parametrize(
    "caller",
    [
        pytest.param(named("web", OWN), id="listener"),
        pytest.param(named("web", OWN, OWN), id="the-same-twice"),
        pytest.param(named("web", "default", OWN), id="second-listener"),
        pytest.param(node("web", backends=[backend("s", clientPolicy=presents(OWN))]), id="backend"),
        pytest.param(node("web", backendDefaults={"clientPolicy": presents(OWN)}), id="defaults"),
        pytest.param(gateway("web", listener(443, tls=mutual(sds=OWN))), id="gateway"),
        pytest.param(gateway("web", backendDefaults={"clientPolicy": presents(OWN)}), id="gateway-as-client"),
    ],
)
def test_a_spec_that_names_its_own_keeps_it(caller: MeshObject) -> None:
    found = of(caller)
    assert found.of(caller.key) == SpiffeId.parse(OWN)
    assert found.keys[SpiffeId.parse(OWN)] == caller.key
    assert found.holder(spiffe_id("web", caller.kind)) is None


def test_a_node_may_name_what_it_would_get_anyway() -> None:
    assert of(named("web", str(spiffe_id("web")))).of(key("web")) == spiffe_id("web")


def test_trust_that_is_named_is_no_identity() -> None:
    tls = {**mutual(), "validation": {"trust": {"sds": {"secretName": OWN}}}}
    assert of(node("web", listeners=(listener(tls=tls),))).of(key("web")) == spiffe_id("web")


@pytest.mark.parametrize(
    ("secret", "rule"),
    [
        ("spiffe://other.test/web", "an identity lies in the trust domain m.test"),
        ("spiffe://m.test", "an identity of a node has a path"),
        ("spiffe://m.test/meshca/admin/root", "identities under /meshca/ are reserved"),
        ("spiffe://m.test/meshca/nobody", "identities under /meshca/ are reserved"),
        ("spiffe://m.test/meshca", "identities under /meshca/ are reserved"),
        ("spiffe://m.test/a/../b", "neither '.' nor '..'"),
        ("spiffe://m.test/a/", "no empty segment"),
        ("spiffe://M.test/a", "only the characters a-z"),
        ("SPIFFE://m.test/a", "starts with spiffe:// in lower case"),
        (" spiffe://m.test/a", "starts with spiffe:// in lower case"),
        ("spiffe:/m.test/a", "starts with spiffe:// in lower case"),
        ("spiffe://m.test/a%20b", "path segment holds only"),
    ],
)
def test_an_identity_that_it_may_not_have_is_refused(secret: str, rule: str) -> None:
    (error,) = refused(named("web", secret))
    assert rule in error.rule
    assert (error.object, error.value) == (str(key("web")), secret)
    assert error.field == "spec.listeners[0].tls.certificate.sds.secretName"
    assert error.remedy


def test_a_named_id_is_not_under_meshca_only_where_the_segment_ends() -> None:
    assert of(named("web", "spiffe://m.test/meshcas/a")).of(key("web")).path == "/meshcas/a"


@pytest.mark.parametrize("secret", ["default", "ROOTCA", "web-cert", "xspiffe://m.test/a", "https://m.test/a"])
def test_a_secret_that_is_no_spiffe_id_selects_nothing_with_a_note(secret: str) -> None:
    found = of(named("web", secret))
    assert found.of(key("web")) == spiffe_id("web")
    (note,) = found.findings
    assert (note.severity, note.object, note.value) == ("note", str(key("web")), secret)
    assert f"{spiffe_id('web')} is served" in note.rule


@pytest.mark.parametrize(
    ("objects", "owner"),
    [
        pytest.param((named("a", OWN), named("b", OWN)), "a", id="named-twice"),
        pytest.param((named("a", str(spiffe_id("b"))), named("b", "default")), "b", id="derived-of-another"),
        pytest.param((named("a", str(spiffe_id("b"))), named("b", OWN)), "b", id="derived-though-not-used"),
        pytest.param((named("b", str(spiffe_id("a"))), named("a", str(spiffe_id("a")))), "a", id="both-name-one"),
    ],
)
def test_two_nodes_never_share_an_identity(objects: tuple[MeshObject, ...], owner: str) -> None:
    (error,) = refused(*objects)
    assert error.rule == f"{error.value} is the identity of {key(owner)}"
    assert error.object == str(key({"a": "b", "b": "a"}[owner]))


def test_two_nodes_cannot_swap_identities() -> None:
    assert len(refused(named("a", str(spiffe_id("b"))), named("b", str(spiffe_id("a"))))) == 2


def test_one_node_names_one_identity() -> None:
    other = "spiffe://m.test/other"
    (error,) = refused(named("web", OWN, other))
    assert OWN in error.rule
    assert other in error.rule
    assert error.field == "spec.listeners[0].tls.certificate.sds.secretName"
    policy = node("web", listeners=(listener(tls=mutual(sds=OWN)),), backendDefaults={"clientPolicy": presents(other)})
    (error,) = refused(policy)
    assert "spec.backendDefaults.clientPolicy.tls.certificate.sds.secretName" in error.rule


# -- whom a person means


@pytest.mark.parametrize(
    "text",
    [
        "web",
        "mesh/shop/virtualNode/web",
        "mesh/shop/virtualNode/web/instance-1",
        "mesh/shop@123456789012/virtualNode/web",
        f"{ARN}:mesh/shop/virtualNode/web",
        "spiffe://m.test/mesh/shop/virtualNode/web",
    ],
)
def test_a_node_is_found_by_any_of_its_names(text: str) -> None:
    assert of(node("web"), gateway()).resolve(text) == key("web")


def test_a_node_that_names_its_own_id_is_found_by_that_alone() -> None:
    found = of(named("web", OWN))
    assert found.resolve(OWN) == key("web")
    with pytest.raises(NotFoundError):
        found.resolve(str(spiffe_id("web")))


@pytest.mark.parametrize(
    "text",
    ["", "gone", "mesh/shop/virtualNode/gone", "mesh/other/virtualNode/web", "mesh/shop/virtualGateway/web",
     "mesh/shop/virtualService/s", "s", "spiffe://m.test/gone", "Web"],
)  # fmt: skip
def test_a_node_that_is_not_there_is_named(text: str) -> None:
    with pytest.raises(NotFoundError, match="no applied mesh has this node") as caught:
        of(node("web")).resolve(text)
    assert (caught.value.field, caught.value.value) == ("NODE", text)
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["spiffe://M.test/a", "SPIFFE://m.test/a", "spiffe://m.test/a/"])
def test_a_malformed_id_says_what_is_wrong(text: str) -> None:
    with pytest.raises(IdentityError):
        of(node("web")).resolve(text)


def test_a_name_that_several_have_is_refused_with_the_list() -> None:
    found = of(node("web"), gateway("web"))
    with pytest.raises(InvalidInputError) as caught:
        found.resolve("web")
    assert caught.value.message == (
        "several nodes have this name: mesh/shop/virtualGateway/web, mesh/shop/virtualNode/web"
    )
    assert found.resolve("mesh/shop/virtualGateway/web") == key("web", VIRTUAL_GATEWAY)


def test_what_holds_no_identity_is_not_found() -> None:
    found = of(node("web"))
    with pytest.raises(NotFoundError, match="no applied mesh has this node"):
        found.of(key("s", VIRTUAL_SERVICE))
    assert found.of_node(NodeRef("shop", "virtualNode", "web", "i-1")) == spiffe_id("web")
    assert found.of_node(NodeRef("shop", "virtualGateway", "web")) is None
    assert found.of_node(NodeRef("other", "virtualNode", "web")) is None


_NODES = ("a", "b", "c")
_SECRETS = ["default", OWN, "spiffe://m.test/x", *(str(spiffe_id(name)) for name in _NODES)]


@examples(40)
@given(st.fixed_dictionaries({name: st.lists(st.sampled_from(_SECRETS), max_size=2) for name in _NODES}))
def test_identities_are_one_to_one_or_refused(secrets: dict[str, list[str]]) -> None:
    claims = {name: set(named_here) - {"default"} for name, named_here in secrets.items()}
    good = all(len(claim) <= 1 for claim in claims.values()) and all(
        not claim & (claims[other] | {str(spiffe_id(other))})
        for name, claim in claims.items()
        for other in _NODES
        if other != name
    )
    objects = [named(name, *named_here) for name, named_here in secrets.items()]
    if not good:
        assert refused(*objects)
        return
    found = of(*objects)
    assert {name.name: str(spiffe_id) for name, spiffe_id in found.ids.items()} == {
        name: next(iter(claim), str(spiffe_id(name))) for name, claim in claims.items()
    }
    assert {found.keys[spiffe_id]: spiffe_id for spiffe_id in found.keys} == found.ids


def test_the_same_names_in_two_meshes_are_two_identities() -> None:
    keys = [ObjectKey(mesh, "virtualNode", "", "web") for mesh in ("a", "b")]
    found = Identities(DOMAIN, {one: SpiffeId(DOMAIN, f"/mesh/{one.mesh}/virtualNode/web") for one in keys})
    with pytest.raises(InvalidInputError, match="several nodes have this name"):
        found.resolve("web")
    assert found.resolve("mesh/b/virtualNode/web") == keys[1]
