from __future__ import annotations

import pytest

from meshca.envoy.placement import Placement, PlacementError, placement_of


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0.0.0.0", "0.0.0.0", None),
        ("127.0.0.1:15000", "127.0.0.1", 15000),
        ("::", "::", None),
        ("[::1]:15000", "::1", 15000),
        ("[::1]", "::1", None),
    ],
)
def test_ingress_is_an_address_with_or_without_a_port(text: str, host: str, port: int | None) -> None:
    placement = Placement.parse(ingress=text)
    assert (placement.ingress_host, placement.ingress_port) == (host, port)
    assert placement_of(placement.metadata()) == placement


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "[::1",
        "[::1]15000",
        "1.2.3.4:5:6",
        "fe80::1%eth0",
    ],
)
def test_anything_else_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(PlacementError, match="ingress"):
        Placement.parse(ingress=text)


@pytest.mark.parametrize(
    "told",
    ["x", 3, [], {"ingress": 5}, {"egress": None}, {"app": "localhost"}, {"ingres": "::1"}, {"egress": "1" * 100}],
)
def test_metadata_is_read_strictly(told: object) -> None:
    with pytest.raises(PlacementError):
        placement_of({"meshca": told})


def test_without_metadata_the_defaults_hold() -> None:
    assert placement_of({"other": {}}) == Placement()


def test_an_egress_that_others_reach_is_warned_about() -> None:
    assert Placement.parse(egress="127.0.0.9").warnings() == ()
    assert "identity" in Placement.parse(egress="0.0.0.0").warnings()[0]


def test_interception_is_told_like_the_rest() -> None:
    placement = Placement.parse(intercepted="yes")
    assert placement.metadata()["meshca"]["intercepted"] == "yes"
    assert placement_of(placement.metadata()) == placement
    with pytest.raises(PlacementError, match="intercepted: is neither yes nor no"):
        placement_of({"meshca": {"intercepted": "true"}})
