from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import InvalidInputError
from meshca.x509.serial import new_serial, parse_serial, serial_hex


@given(st.integers(min_value=1, max_value=(1 << 160) - 1))
def test_the_spelling_is_read_back(serial: int) -> None:
    text = serial_hex(serial)
    assert parse_serial(text) == serial
    assert len(text) % 2 == 0
    assert text == text.lower()
    assert not text.startswith("00")


@pytest.mark.parametrize(
    ("serial", "text"),
    [(0, "00"), (1, "01"), (0x7F, "7f"), (0x80, "80"), (0xABC, "0abc"), (1 << 151, "80" + "00" * 18)],
)
def test_two_digits_a_byte_and_no_sign_byte(serial: int, text: str) -> None:
    assert serial_hex(serial) == text


@given(st.binary(min_size=19, max_size=19).filter(any))
def test_a_new_serial_is_all_of_the_entropy(entropy: bytes) -> None:
    assert new_serial(entropy).to_bytes(19, "big") == entropy


@pytest.mark.parametrize("entropy", [b"", bytes(19), b"\x01" * 18, b"\x01" * 20])
def test_poor_entropy_is_refused(entropy: bytes) -> None:
    with pytest.raises(ValueError, match="19 random bytes"):
        new_serial(entropy)


@pytest.mark.parametrize("text", ["", "0", "0A", "0x01", "01\n", " 01", "0001", "abc", "01" * 21, "é1"])
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="serial"):
        parse_serial(text)


def test_a_negative_number_is_no_serial() -> None:
    with pytest.raises(OverflowError):
        serial_hex(-1)
