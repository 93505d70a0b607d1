from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import DOMAIN, examples, spiffe_id

from meshca.policy.names import NameReader
from meshca.spiffe.id import SpiffeId

WEB = str(spiffe_id("web"))
FIELD = "subjectAlternativeNames.match.exact"


def read(*names: str) -> tuple[set[str], list[tuple[str, str, str]]]:
    reader = NameReader(DOMAIN)
    ids = reader.read(names, "mesh/shop/virtualNode/n", "spec.tls")
    assert all(finding.severity == "warning" for finding in reader.findings)
    assert all(finding.object == "mesh/shop/virtualNode/n" for finding in reader.findings)
    return set(map(str, ids)), [(finding.field, finding.value, finding.rule) for finding in reader.findings]


def test_a_name_matches_by_equality() -> None:
    assert read(WEB, str(spiffe_id("pay"))) == ({WEB, str(spiffe_id("pay"))}, [])


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("web.local", "a DNS name matches nobody"),
        ("*.local", "a DNS name matches nobody"),
        ("*", "a DNS name matches nobody"),
        ("mesh/shop/virtualNode/web", "a DNS name matches nobody"),
        ("https://m.test/web", "this URI is no SPIFFE ID and matches nobody"),
        (WEB.upper(), "this URI is no SPIFFE ID and matches nobody"),
        (f"{WEB}/", "this URI is no SPIFFE ID and matches nobody"),
        (f"{WEB}*", "this URI is no SPIFFE ID and matches nobody"),
        (f" {WEB}", "this URI is no SPIFFE ID and matches nobody"),
        ("spiffe://m.test/*", "this URI is no SPIFFE ID and matches nobody"),
    ],
)
def test_a_name_that_matches_nobody_is_warned_of_and_widens_nothing(name: str, rule: str) -> None:
    ids, (doubt, nobody) = read(name)
    assert ids == set()
    assert doubt[:2] == (f"spec.tls.{FIELD}[0]", name)
    assert rule in doubt[2]
    assert nobody == (f"spec.tls.{FIELD}", "", "no name of this list can match, so nobody is admitted")


def test_beside_one_that_matches_it_is_warned_of_alone() -> None:
    ids, doubts = read("web.local", WEB)
    assert ids == {WEB}
    assert [field for field, *_ in doubts] == [f"spec.tls.{FIELD}[0]"]


def test_an_id_of_another_trust_domain_is_kept_and_warned_of() -> None:
    ids, ((field, value, rule),) = read(WEB, "spiffe://other.test/web")
    assert ids == {WEB, "spiffe://other.test/web"}
    assert (field, value) == (f"spec.tls.{FIELD}[1]", "spiffe://other.test/web")
    assert "not of the trust domain m.test" in rule


def test_the_trust_domain_itself_is_nobodys_wildcard() -> None:
    assert read("spiffe://m.test")[0] == {"spiffe://m.test"}


def test_each_place_of_the_same_list_is_warned_of() -> None:
    reader = NameReader(DOMAIN)
    reader.read(("web.local",), "a", "x")
    reader.read(("web.local",), "b", "y")
    assert [(finding.object, finding.field.split(".")[0]) for finding in reader.findings] == [
        ("a", "x"), ("a", "x"), ("b", "y"), ("b", "y"),
    ]  # fmt: skip


@examples(60)
@given(st.lists(st.text("aA./:*-", max_size=12).map("spiffe://m.test{}".format) | st.text(max_size=8) | st.just(WEB)))
def test_what_is_read_is_what_was_written(names: list[str]) -> None:
    ids, doubts = read(*names)
    assert ids <= set(names)
    assert all(str(SpiffeId.parse(name)) == name for name in ids)
    doubtful = [name for name in names if name not in ids or SpiffeId.parse(name).trust_domain != DOMAIN]
    assert [value for field, value, _ in doubts if field.endswith("]")] == doubtful
