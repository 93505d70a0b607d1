"""Sealed streams: what goes in comes out, and every way of damaging one has its own error."""

from __future__ import annotations

import io
import json

import pytest

from meshca.keys import chest
from meshca.keys.chest import ChestError, WrongChestPassphraseError, seal, unseal

PASSPHRASE = b"correct horse"


def sealed(*plain: bytes) -> bytes:
    return b"".join(seal(plain, PASSPHRASE))


def opened(content: bytes, passphrase: bytes = PASSPHRASE) -> bytes:
    return b"".join(unseal(io.BytesIO(content), passphrase, "b.meshca"))


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of eight bytes, under a key that costs nothing to derive."""
    monkeypatch.setattr(chest, "_CHUNK", 8)
    monkeypatch.setattr(chest, "_COST", 2)
    monkeypatch.setattr(chest, "_COSTS", {2})


@pytest.fixture
def frames(small_frames: None) -> list[bytes]:
    """A header and four frames."""
    return list(seal([b"0123456789abcdef", b"0123456789"], PASSPHRASE))


@pytest.mark.parametrize("plain", [(), (b"",), (b"x",), (b"x" * 8,), (b"x" * 9, b"", b"y" * 30)])
def test_what_goes_in_comes_out(small_frames: None, plain: tuple[bytes, ...]) -> None:
    assert opened(sealed(*plain)) == b"".join(plain)


def test_neither_passphrase_nor_content_can_be_read() -> None:
    content = sealed(b"a private thing")
    assert PASSPHRASE not in content
    assert b"private" not in content


def test_another_passphrase_is_told_apart(frames: list[bytes]) -> None:
    with pytest.raises(
        WrongChestPassphraseError, match=r"b\.meshca: the passphrase is not the one .* --passphrase-file"
    ):
        opened(b"".join(frames), b"another")


@pytest.mark.parametrize("kept", [1, 2, 3, 4])
def test_a_cut_between_frames_shows(frames: list[bytes], kept: int) -> None:
    with pytest.raises(ChestError, match="the backup is cut: it ends too early"):
        opened(b"".join(frames[:kept]))


def test_every_cut_shows(frames: list[bytes]) -> None:
    whole, header = b"".join(frames), len(frames[0])
    for length in range(header, len(whole)):
        with pytest.raises(ChestError, match="is cut"):
            opened(whole[:length])


@pytest.mark.parametrize(
    ("order", "finding"),
    [
        ((0, 2, 1, 3, 4), "frame 0 was changed or moved"),
        ((0, 1, 3, 4), "frame 1 was changed or moved"),
        ((0, 1, 1, 2, 3, 4), "frame 1 was changed or moved"),
        ((0, 4), "frame 0 was changed or moved"),
        ((0, 1, 2, 3, 4, 4), "something follows its end"),
    ],
    ids=["swapped", "left-out", "repeated", "only-the-last", "more"],
)
def test_frames_have_their_place(frames: list[bytes], order: tuple[int, ...], finding: str) -> None:
    with pytest.raises(ChestError, match=finding):
        opened(b"".join(frames[at] for at in order))


def test_frames_of_another_backup_do_not_fit(small_frames: None) -> None:
    one, other = (list(seal([b"0123456789"], PASSPHRASE)) for _ in range(2))
    with pytest.raises(ChestError, match="frame 0 was changed or moved"):
        opened(b"".join([one[0], *other[1:]]))


def test_every_changed_byte_shows(frames: list[bytes]) -> None:
    whole, header = b"".join(frames), len(frames[0])
    for at in range(header, len(whole)):
        with pytest.raises(ChestError):
            opened(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


def test_a_changed_header_is_no_wrong_passphrase(frames: list[bytes]) -> None:
    whole, header = b"".join(frames), len(frames[0])
    for at in range(header):
        with pytest.raises(ChestError) as raised:
            opened(whole[:at] + bytes([whole[at] ^ 2]) + whole[at + 1 :])
        assert not isinstance(raised.value, WrongChestPassphraseError), at


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"", "this is no meshca backup"),
        (b"\x00\xff" * 10, "this is no meshca backup"),
        (b'{"format":"meshca-sealed-key/1"}\n', "this is no meshca backup"),
        (b"[]\n", "this is no meshca backup"),
        (b'{"format":"meshca-backup/2"}\n', "made by another version of meshca, in the form meshca-backup/2"),
        (b'{"format":"meshca-backup/1"}\n', "its header was changed"),
    ],
)
def test_what_is_no_backup_of_ours_says_so(content: bytes, finding: str) -> None:
    with pytest.raises(ChestError, match=finding):
        opened(content)


@pytest.mark.parametrize("cost", [1, 2**14, 2**30, "x", None])
def test_a_header_cannot_ask_for_a_weak_or_endless_derivation(cost: object) -> None:
    fields = json.loads(sealed(b"x").split(b"\n")[0])
    del fields["digest"]
    fields["scrypt"]["n"] = cost
    header = json.dumps({**fields, "digest": chest._digest(fields)}).encode() + b"\n"
    with pytest.raises(ChestError, match="its header was changed"):
        opened(header)
