from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.x509 import der


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_children_are_what_was_put_in(contents: list[bytes]) -> None:
    parts = [der.octet_string(content) for content in contents]
    assert der.children(der.sequence(*parts)) == parts


@given(st.binary(max_size=40))
def test_no_input_breaks_the_reader(element: bytes) -> None:
    try:
        parts = der.children(element)
    except der.DerError:
        return
    assert b"".join(parts) == element[len(element) - sum(map(len, parts)) :]


@pytest.mark.parametrize(
    "text",
    ["", "30", "3001", "300200", "30020500ff", "30030405", "3081020500", "308002", "30820002" + "0500", "30030402aa"],
)
def test_what_is_not_der_is_refused(text: str) -> None:
    with pytest.raises(der.DerError):
        der.children(bytes.fromhex(text))


@pytest.mark.parametrize(
    ("value", "encoded"), [(0, "020100"), (127, "02017f"), (128, "02020080"), (255, "020200ff"), (256, "02020100")]
)
def test_integers_have_a_sign_byte_where_needed(value: int, encoded: str) -> None:
    assert der.integer(value).hex() == encoded


@pytest.mark.parametrize(
    ("at", "encoded"),
    [
        (datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x17\x0d491231235959Z"),
        (datetime(2050, 1, 1, tzinfo=UTC), b"\x18\x0f20500101000000Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 999999, tzinfo=UTC), b"\x17\x0d260102030405Z"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2))), b"\x17\x0d260102010405Z"),
    ],
)
def test_times_change_form_in_2050(at: datetime, encoded: bytes) -> None:
    assert der.time(at) == encoded


def test_lengths_take_the_shortest_form() -> None:
    assert der.octet_string(bytes(127))[:2] == b"\x04\x7f"
    assert der.octet_string(bytes(128))[:3] == b"\x04\x81\x80"
    assert der.octet_string(bytes(256))[:4] == b"\x04\x82\x01\x00"
