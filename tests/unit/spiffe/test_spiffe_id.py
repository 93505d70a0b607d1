"""SPIFFE-ID §2, byte by byte."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import InvalidInputError
from meshca.spiffe.id import IdentityError, SpiffeId, TrustDomain

DOMAIN_CHARACTERS = (string.ascii_lowercase + string.digits + "._-").encode()
PATH_CHARACTERS = (string.ascii_letters + string.digits + "._-").encode()

trust_domains = st.text(alphabet=DOMAIN_CHARACTERS.decode(), min_size=1, max_size=255)
segments = st.text(alphabet=PATH_CHARACTERS.decode(), min_size=1, max_size=60).filter(lambda s: s not in {".", ".."})


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://td",
        "spiffe://td/path",
        "spiffe://1.2.3.4/path",
        "spiffe://prod_1.example-2.org/Web/api",
        "spiffe://td/.path",
        "spiffe://td/..path",
        "spiffe://td/...",
        "spiffe://td/a/.../b",
        "spiffe://td/mesh/m/virtualNode/n",
    ],
)
def test_a_canonical_spelling_is_kept(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text
    assert SpiffeId.parse(text.encode()) == SpiffeId.parse(text)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "starts with spiffe://"),
        ("s", "starts with spiffe://"),
        ("spiffe:/td", "starts with spiffe://"),
        ("Spiffe://td/a", "starts with spiffe://"),
        ("SPIFFE://td/a", "starts with spiffe://"),
        ("https://td/a", "starts with spiffe://"),
        (" spiffe://td/a", "starts with spiffe://"),
        ("spiffe://", "trust domain is empty"),
        ("spiffe:///", "trust domain is empty"),
        ("spiffe:///a", "trust domain is empty"),
        ("spiffe://TD/a", "trust domain holds only"),
        ("spiffe://Td", "trust domain holds only"),
        ("spiffe://t%64/a", "trust domain holds only"),
        ("spiffe://td:80/a", "trust domain holds only"),
        ("spiffe://user@td/a", "trust domain holds only"),
        ("spiffe://[::1]/a", "trust domain holds only"),
        ("spiffe://td?q", "trust domain holds only"),
        ("spiffe://td\n", "trust domain holds only"),
        ("spiffe://tð/a", "trust domain holds only"),
        ("spiffe://td/", "no empty segment"),
        ("spiffe://td//", "no empty segment"),
        ("spiffe://td//path", "no empty segment"),
        ("spiffe://td/path/", "no empty segment"),
        ("spiffe://td/.", "neither '.' nor '..'"),
        ("spiffe://td/./path", "neither '.' nor '..'"),
        ("spiffe://td/path/..", "neither '.' nor '..'"),
        ("spiffe://td/../path", "neither '.' nor '..'"),
        ("spiffe://td/%61", "path segment holds only"),
        ("spiffe://td/a?b=c", "path segment holds only"),
        ("spiffe://td/a#b", "path segment holds only"),
        ("spiffe://td/a\n", "path segment holds only"),
        ("spiffe://td/ä", "path segment holds only"),
        ("spiffe://td/a\x00", "path segment holds only"),
    ],
)
def test_each_broken_rule_is_named(text: str, rule: str) -> None:
    with pytest.raises(IdentityError, match=rule):
        SpiffeId.parse(text)
    with pytest.raises(IdentityError):
        SpiffeId.parse(text.encode())


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_as_a_character_of_trust_domain_and_path(byte: int) -> None:
    for before, after, allowed in (
        (b"spiffe://a", b"b/c", DOMAIN_CHARACTERS + b"/"),
        (b"spiffe://td/a", b"b", PATH_CHARACTERS + b"/"),
    ):
        text = before + bytes((byte,)) + after
        if byte in allowed:
            assert str(SpiffeId.parse(text)).encode() == text
        else:
            with pytest.raises(IdentityError):
                SpiffeId.parse(text)


def test_the_longest_id_has_2048_bytes() -> None:
    prefix = "spiffe://td/"
    longest = prefix + "a" * (2048 - len(prefix))
    assert str(SpiffeId.parse(longest)) == longest
    with pytest.raises(IdentityError, match="2048 bytes"):
        SpiffeId.parse(longest + "a")
    with pytest.raises(IdentityError, match="2048 bytes"):
        SpiffeId(TrustDomain("td"), "/" + "a" * 2048)


def test_the_longest_trust_domain_has_255_bytes() -> None:
    assert TrustDomain("a" * 255).id.is_trust_domain
    with pytest.raises(IdentityError, match="255 bytes"):
        TrustDomain("a" * 256)


def test_a_hostile_text_cannot_forge_a_log_line() -> None:
    with pytest.raises(IdentityError) as caught:
        SpiffeId.parse("spiffe://td/a\n2026 issued spiffe://td/admin")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InvalidInputError)


@given(trust_domains, st.lists(segments, max_size=8))
def test_what_is_written_is_read_back(name: str, path: list[str]) -> None:
    made = SpiffeId(TrustDomain(name), "".join(f"/{segment}" for segment in path))
    assert SpiffeId.parse(str(made)) == made
    assert made.segments == tuple(path)
    assert hash(SpiffeId.parse(str(made))) == hash(made)


@given(st.one_of(st.text(max_size=60), st.text(max_size=40).map(lambda rest: f"spiffe://td/{rest}"), st.binary()))
def test_whatever_is_accepted_is_its_own_spelling(text: str | bytes) -> None:
    try:
        made = SpiffeId.parse(text)
    except IdentityError:
        return
    assert str(made) == (text if isinstance(text, str) else text.decode())


def test_an_id_is_not_its_text() -> None:
    text: object = "spiffe://td/a"
    assert SpiffeId.parse("spiffe://td/a") != text
