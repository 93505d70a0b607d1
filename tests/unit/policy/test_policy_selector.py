"""Selectors: one spelling each, and what must stand beside what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import examples

from meshca.errors import InvalidInputError
from meshca.policy.selector import SelectorError, parse_selector, require_sound

HASH = "5d" * 32


@pytest.mark.parametrize(
    "text",
    ["unix:uid:0", "unix:gid:0", "unix:uid:1000", f"unix:gid:{2**32 - 2}", "unix:path:/usr/bin/envoy", "unix:path:/a",
     "unix:path:/opt/my app/é:1", "unix:path:/opt/...", "unix:path:/opt/.hidden/..x", f"unix:sha256:{HASH}",
     "systemd:unit:nginx.service", "systemd:unit:getty@tty1.service", "systemd:unit:a\\x2db.scope",
     f"container:id:{HASH}", "k8s:ns:shop", "k8s:sa:web", "k8s:sa:web.v1", "k8s:pod-name:web-0",
     "k8s:pod-uid:0f3b8a52-7a1c-4b60-9d3e-1c2d3e4f5a6b", f"k8s:pod-uid:{HASH[:32]}"],
)  # fmt: skip
def test_a_selector_has_one_spelling(text: str) -> None:
    assert str(parse_selector(text)) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        *(
            pytest.param(text, "a selector is TYPE:VALUE with one of the types unix:uid, unix:gid, ")
            for text in (
                "", "unix", "unix:uid", "uid:1", "Unix:uid:1", "unix:pid:1", " unix:uid:1", "unix::1", "k8s:ns",
            )
        ),
        *(
            pytest.param(f"unix:uid:{value}", "spelled unix:uid:N")
            for value in ("", "root", "01", "-1", "+1", "1 ", "1\n", "1.0", "1e3", "٣", str(2**32 - 1), "9" * 11, "1:2")
        ),
        *(
            pytest.param(f"unix:path:{value}", "spelled unix:path:/ABSOLUTE/PATH")
            for value in (
                "", "envoy", "./envoy", "/", "//usr", "/usr/", "/usr//bin", "/usr/./x", "/usr/../x", "/..", "/usr/..",
                "/a\n", "/a\0b", "/" + "x" * 4095,
            )
        ),
        *(
            pytest.param(f"unix:sha256:{value}", "64 hex")
            for value in ("", HASH[1:], HASH + "0", HASH.upper(), "g" * 64)
        ),
        *(pytest.param(f"container:id:{value}", "64 hex") for value in ("", HASH[:12], HASH.upper())),
        *(
            pytest.param(f"systemd:unit:{value}", "NAME.service")
            for value in ("", "nginx", ".service", "a.slice", "a/b.service", "a b.service", "x" * 250 + ".service")
        ),
        *(
            pytest.param(f"k8s:ns:{value}", "NAMESPACE")
            for value in ("", "Shop", "-a", "a-", "a.b", "a_b", "x" * 64, "a\n", "*")
        ),
        *(
            pytest.param(f"k8s:sa:{value}", "SERVICE-ACCOUNT")
            for value in ("", "a..b", ".a", "shop:web", "a." * 127 + "b")
        ),
        *(pytest.param(f"k8s:pod-uid:{value}", "UID") for value in ("", "0", "0F" * 16, HASH)),
    ],
)  # fmt: skip
def test_any_other_spelling_is_refused(text: str, says: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse_selector(text)
    assert says in str(caught.value)
    assert (caught.value.field, caught.value.value) == ("selector", text)
    assert caught.value.remedy
    assert isinstance(caught.value, InvalidInputError)


@examples(100)
@given(st.text(max_size=60) | st.builds("unix:path:/{}".format, st.text(max_size=30)))
def test_what_is_understood_is_spelled_as_it_was_given(text: str) -> None:
    try:
        assert str(parse_selector(text)) == text
    except SelectorError:
        return


@pytest.mark.parametrize(
    "texts",
    [
        ("unix:uid:1",),
        ("unix:path:/a", "unix:uid:1"),
        ("unix:path:/a", "unix:gid:1"),
        (f"unix:sha256:{HASH}", "unix:path:/a", "unix:gid:1"),
        ("systemd:unit:a.service",),
        ("k8s:ns:a",),
        ("k8s:ns:a", "k8s:sa:b", "k8s:pod-name:c"),
    ],
)
def test_sound_registrations(texts: tuple[str, ...]) -> None:
    require_sound(map(parse_selector, texts))


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (("unix:path:/a",), "stands only beside unix:uid or unix:gid (got 'unix:path:/a'); add --selector unix:uid:…"),
        ((f"unix:sha256:{HASH}", "k8s:ns:a"), "stands only beside unix:uid or unix:gid"),
        (("unix:path:/a", f"unix:sha256:{HASH}", "systemd:unit:a.service"), "stands only beside unix:uid or unix:gid"),
        (("k8s:sa:default",), "stands only beside k8s:ns (got 'k8s:sa:default'); add --selector k8s:ns:…"),
        (("k8s:pod-name:a", "unix:uid:1"), "stands only beside k8s:ns"),
    ],
)
def test_what_stands_alone_is_refused(texts: tuple[str, ...], says: str) -> None:
    with pytest.raises(SelectorError) as caught:
        require_sound(map(parse_selector, texts))
    assert says in str(caught.value)
