from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.envoy import names
from meshca.envoy.names import SecretNameError, parse_secret_name
from meshca.errors import InvalidInputError
from meshca.spiffe.id import SpiffeId, TrustDomain

DOMAIN = TrustDomain("m.test")
FRONT = SpiffeId(DOMAIN, "/mesh/demo/virtualNode/front")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("default", names.Default()),
        ("ROOTCA", names.Roots(None)),
        ("ALL", names.All()),
        ("spiffe://m.test", names.Roots(DOMAIN)),
        ("spiffe://m.test/mesh/demo/virtualNode/front", names.Svid(FRONT)),
        ("clients", names.Clients(None)),
        (names.clients_name(None), names.Clients(None)),
        (names.clients_name(9080), names.Clients(9080)),
        (names.client_name(FRONT), names.Client(FRONT)),
        (names.servers_name("color.apps.local"), names.Servers("color.apps.local")),
        ("servers:a:b", names.Servers("a:b")),
    ],
)
def test_each_name_means_one_secret(text: str, meaning: names.SecretName) -> None:
    assert parse_secret_name(text) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "", "Default", "rootca", "clients:", "clients:0", "clients:65536", "clients:080", "clients:+80", "clients: 80",
        "clients:٨٠", "clients:80:81", "servers:", "client:", "client:front", "SPIFFE://m.test", "spiffe://M.test/a",
        "spiffe://m.test/a/", "spiffe://m.test/../a", "spiffe://m.test/a%20b", "default\n", "x" * 5000,
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_secret_name(text)


@given(st.text(max_size=80))
def test_parsing_ends_in_a_meaning_or_a_named_error(text: str) -> None:
    with contextlib.suppress(InvalidInputError):
        parse_secret_name(text)


def test_an_unknown_name_says_what_may_be_asked_for() -> None:
    with pytest.raises(SecretNameError, match="ask for default"):
        parse_secret_name("validation_context")


def test_an_sni_is_a_host_name_whatever_the_id() -> None:
    longest = SpiffeId(DOMAIN, "/" + "a" * 2000)
    assert len(names.sni_for(longest)) == len(names.sni_for(FRONT)) == 32 + len(".client.meshca")
    assert names.sni_for(longest) != names.sni_for(FRONT)
