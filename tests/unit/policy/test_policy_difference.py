from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from unit.mesh.mesh_objects import examples, gateway, listener, mutual, node, service, spiffe_id
from unit.policy.policy_meshes import OWN, Brute, meshes, policy_of

from meshca.mesh.model import MeshObject
from meshca.policy.admission import BackendPermission, Permission, Policy
from meshca.policy.difference import PolicyDifference, diff

WEB, PAY, NEW = (spiffe_id(name) for name in ("web", "pay", "new"))
CALL = Permission(WEB, PAY, 80)


def shop(*clients: str, tls: dict[str, Any] | None = None, server: str = "pay") -> Policy:
    serving = [node(name, listeners=(listener(80, tls=tls or mutual()),)) for name in ("pay", "pay2")]
    return policy_of(*(node(name, "s") for name in clients), *serving, service("s", node=server))


def test_nothing_changed_is_an_empty_difference() -> None:
    found = diff(shop("web"), shop("web"))
    assert found == PolicyDifference()
    assert found.is_empty


def test_a_new_client_widens_its_server_and_its_own_backends() -> None:
    found = diff(shop("web"), shop("web", "new"))
    assert found == PolicyDifference(
        widened=(Permission(NEW, PAY, 80),),
        widened_backends=(BackendPermission(NEW, "s", PAY),),
        gained=(Permission(NEW, PAY, 80),),
    )
    assert not found.is_empty


def test_a_client_that_is_gone_is_narrowed() -> None:
    found = diff(shop("web", "new"), shop("web"))
    assert found.narrowed == found.lost == (Permission(NEW, PAY, 80),)
    assert (found.widened, found.widened_backends, found.gained) == ((), (), ())


def test_a_name_list_narrows_one_side_and_loses_the_call() -> None:
    found = diff(shop("web", "new"), shop("web", "new", tls=mutual(NEW)))
    pay2 = spiffe_id("pay2")
    assert found.narrowed == found.lost == (CALL,)
    assert (found.narrowed_backends, found.widened_backends) == ((), ())
    assert found.widened == (Permission(NEW, pay2, 80),)


def test_a_service_that_moves_is_narrowed_here_and_widened_there() -> None:
    found = diff(shop("web"), shop("web", server="pay2"))
    moved = Permission(WEB, spiffe_id("pay2"), 80)
    assert (found.narrowed, found.widened) == ((CALL,), (moved,))
    assert (found.lost, found.gained) == ((CALL,), (moved,))
    assert found.narrowed_backends == (BackendPermission(WEB, "s", PAY),)


def test_a_node_that_takes_another_identity_is_a_change_on_both_sides() -> None:
    found = _renamed()
    assert [(str(one.client), str(one.server)) for one in found.narrowed] == [(str(WEB), str(PAY))]
    assert [(str(one.client), str(one.server)) for one in found.widened] == [(str(WEB), OWN)]
    assert {str(one.server) for one in found.narrowed_backends} == {str(PAY)}


def _renamed() -> PolicyDifference:
    def policy(secret: str) -> Policy:
        serving = node("pay", listeners=(listener(80, tls=mutual(sds=secret)),))
        return policy_of(node("web", "s"), serving, service("s", node="pay"))

    return diff(policy("default"), policy(OWN))


def test_what_is_no_matter_of_policy_is_no_difference() -> None:
    before = policy_of(node("web", "s"), node("pay"), service("s", node="pay"))
    after = policy_of(node("web", "s"), node("pay"), service("s", node="pay"), node("alone"), gateway(), service("t"))
    assert diff(before, after).is_empty


@pytest.mark.parametrize("both", [("web",), ("new", "web"), ()])
def test_swapped_sides_swap_the_difference(both: tuple[str, ...]) -> None:
    assert _swapped(diff(shop("web"), shop(*both))) == diff(shop(*both), shop("web"))


def _swapped(found: PolicyDifference) -> PolicyDifference:
    return PolicyDifference(
        found.narrowed, found.widened, found.narrowed_backends, found.widened_backends, found.lost, found.gained
    )


@examples(30)
@given(meshes(), meshes())
def test_a_difference_is_exact(before: tuple[MeshObject, ...], after: tuple[MeshObject, ...]) -> None:
    found = diff(policy_of(*before), policy_of(*after))
    old, new = _permissions(before), _permissions(after)
    gone = (found.narrowed, found.narrowed_backends, found.lost)
    come = (found.widened, found.widened_backends, found.gained)
    assert [sorted(map(_texts, part)) for part in come] == [sorted(b - a) for a, b in zip(old, new, strict=True)]
    assert [sorted(map(_texts, part)) for part in gone] == [sorted(a - b) for a, b in zip(old, new, strict=True)]
    assert found.is_empty == (old == new)
    assert diff(policy_of(*after), policy_of(*before)) == _swapped(found)


def _permissions(objects: tuple[MeshObject, ...]) -> tuple[set[tuple[str, ...]], ...]:
    """Return by brute force what listeners admit, what clients accept, and the calls of both."""
    brute = Brute(objects)
    return (
        {(one, at, str(port)) for (at, port), clients in brute.listeners().items() for one in clients},
        {(at, name, one) for (at, name), servers in brute.backends().items() for one in servers},
        set(map(_texts, brute.calls())),
    )


def _texts(permission: tuple[object, ...]) -> tuple[str, ...]:
    return tuple(map(str, permission))
