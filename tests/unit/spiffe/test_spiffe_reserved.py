from __future__ import annotations

import pytest

from meshca.spiffe import reserved
from meshca.spiffe.id import IdentityError, SpiffeId, TrustDomain

TD = TrustDomain("m.test")


def test_the_identities_of_our_own() -> None:
    assert str(reserved.nobody(TD)) == "spiffe://m.test/meshca/nobody"
    assert str(reserved.server(TD, "a")) == "spiffe://m.test/meshca/server/a"
    assert str(reserved.agent(TD, "b")) == "spiffe://m.test/meshca/agent/b"
    assert str(reserved.admin(TD, "c")) == "spiffe://m.test/meshca/admin/c"
    assert reserved.is_nobody(reserved.nobody(TD))
    assert not reserved.is_nobody(reserved.server(TD, "nobody"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/meshca", True), ("/meshca/x", True), ("/meshca/nobody", True), ("/meshcab", False), ("/a/meshca", False)],
)
def test_reserved_is_all_under_meshca(path: str, expected: bool) -> None:
    assert reserved.is_reserved(SpiffeId(TD, path)) is expected


@pytest.mark.parametrize("name", ["", "a/b", "..", "../server/x", "a b"])
def test_a_name_is_one_segment(name: str) -> None:
    with pytest.raises(IdentityError):
        reserved.agent(TD, name)
