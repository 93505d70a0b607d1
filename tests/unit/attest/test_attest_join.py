"""Join tokens: one spelling, no secret in any word, and a root that is compared before anything is sent."""

from __future__ import annotations

import hashlib
import os
import string
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import examples

from meshca.attest.join import (
    VARIABLE,
    JoinTokenError,
    WrongRootError,
    hash_secret,
    new_token,
    parse_token,
    read_token,
)

ROOT = b"the root, as DER"
ROOT_SHA256 = hashlib.sha256(ROOT).digest()
SECRET = bytes(range(100, 132))
TOKEN = new_token(lambda size: SECRET[:size], ROOT_SHA256)
SECRET_TEXT = TOKEN.split(".")[1]
BASE64URL = string.ascii_letters + string.digits + "-_"


def test_a_token_is_read_as_it_was_made() -> None:
    token = parse_token(TOKEN)
    assert (token.secret, token.secret_hash, token.root_sha256) == (SECRET, hash_secret(SECRET), ROOT_SHA256)


@examples(100)
@given(secret=st.binary(min_size=32, max_size=32), root=st.binary(min_size=32, max_size=32))
def test_every_token_is_read_as_it_was_made(secret: bytes, root: bytes) -> None:
    token = parse_token(new_token(lambda _: secret, root))
    assert (token.secret, token.root_sha256) == (secret, root)


def test_two_tokens_differ_and_so_do_their_hashes() -> None:
    tokens = {new_token(os.urandom, ROOT_SHA256) for _ in range(50)}
    assert len({parse_token(token).secret_hash for token in tokens}) == 50


def test_the_hash_is_not_the_secret_nor_its_bare_sha256() -> None:
    assert hash_secret(SECRET) not in {SECRET, hashlib.sha256(SECRET).digest()}


@pytest.mark.parametrize("around", ["{}\n", " {}", "{}\r\n", "\t{}\n\n"])
def test_white_space_around_it_is_ignored(around: str) -> None:
    assert parse_token(around.format(TOKEN)).secret == SECRET


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "empty", id="nothing"),
        pytest.param(" \n", "empty", id="white-space"),
        pytest.param("hello", "starts with meshca-join1", id="not-a-token"),
        pytest.param(TOKEN.replace("join1", "join2"), "starts with meshca-join1", id="later-version"),
        pytest.param(TOKEN.upper(), "starts with meshca-join1", id="other-case"),
        pytest.param(TOKEN.rpartition(".")[0], "3 parts, this one 2", id="no-root"),
        pytest.param(f"{TOKEN}.x", "3 parts, this one 4", id="four-parts"),
        pytest.param(TOKEN[:-1], "root .* this one has 42", id="cut"),
        pytest.param(TOKEN + "=", "root .* this one has 44", id="padded"),
        pytest.param(TOKEN.replace(SECRET_TEXT, SECRET_TEXT[1:]), "secret .* this one has 42", id="short-secret"),
        pytest.param(TOKEN.replace(SECRET_TEXT, " " + SECRET_TEXT[1:]), "secret", id="space-inside"),
        pytest.param(TOKEN.replace(SECRET_TEXT, "+" + SECRET_TEXT[1:]), "secret", id="other-base64"),
        pytest.param(TOKEN.replace(SECRET_TEXT, "é" + SECRET_TEXT[1:]), "secret", id="no-ascii"),
    ],
)
def test_what_is_no_token_is_refused_in_words_without_it(text: str, says: str) -> None:
    with pytest.raises(JoinTokenError, match=says) as caught:
        parse_token(text)
    told = "".join(traceback.format_exception(caught.value, chain=True))
    assert "meshca token AGENT" in str(caught.value)
    assert SECRET_TEXT[1:] not in str(caught.value)
    assert SECRET_TEXT[1:] not in told.replace(repr(text), "")


def test_only_one_last_character_of_four_spells_the_token() -> None:
    accepted = set()
    for last in BASE64URL:
        try:
            accepted.add((last, parse_token(TOKEN[:-1] + last).root_sha256))
        except JoinTokenError:
            continue
    assert len(accepted) == len({root for _, root in accepted}) == 16


@examples(100)
@given(text=st.text(alphabet=BASE64URL + ".\n \0é", max_size=200))
def test_hostile_text_is_refused_in_our_words(text: str) -> None:
    with pytest.raises(JoinTokenError):
        parse_token(text)
    with pytest.raises(JoinTokenError):
        parse_token(f"meshca-join1.{text}.x")


def test_nothing_shows_the_secret() -> None:
    token = parse_token(TOKEN)
    assert SECRET_TEXT not in repr(token)
    assert repr(SECRET) not in repr(token)


def test_another_root_is_refused_before_anything_is_sent() -> None:
    token = parse_token(TOKEN)
    token.require_root(ROOT)
    with pytest.raises(WrongRootError, match="somebody stands in between") as caught:
        token.require_root(ROOT + b".")
    assert ROOT_SHA256.hex() in str(caught.value)


@pytest.mark.parametrize(("secret", "root"), [(b"short", ROOT_SHA256), (SECRET, ROOT), (b"", ROOT_SHA256)])
def test_a_weak_token_is_not_made(secret: bytes, root: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        new_token(lambda _: secret, root)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_only_a_whole_secret_is_hashed(size: int) -> None:
    with pytest.raises(JoinTokenError, match="32 bytes"):
        hash_secret(bytes(size))


def test_it_comes_from_a_file_or_the_environment_and_leaves_that(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    environment = {VARIABLE: TOKEN, "PATH": "/bin"}
    assert read_token(file, {}).secret == read_token(None, environment).secret == SECRET
    assert environment == {"PATH": "/bin"}


def test_none_and_two_are_errors(tmp_path: Path) -> None:
    environment = {VARIABLE: TOKEN}
    with pytest.raises(JoinTokenError, match=f"give --token-file or {VARIABLE}"):
        read_token(None, {})
    with pytest.raises(JoinTokenError, match="both given"):
        read_token(tmp_path / "token", environment)
    assert not environment


def test_files_that_hold_no_token_are_refused(tmp_path: Path) -> None:
    large, binary, pipe = tmp_path / "large", tmp_path / "binary", tmp_path / "pipe"
    large.write_text(" " * 5000 + TOKEN)
    binary.write_bytes(SECRET_TEXT.encode() + b"\xff")
    os.mkfifo(pipe)
    said = {}
    for path in (large, binary, pipe, tmp_path, tmp_path / "absent"):
        with pytest.raises(JoinTokenError) as caught:
            read_token(path, {})
        assert SECRET_TEXT not in "".join(traceback.format_exception(caught.value))
        said[path.name] = caught.value.message
    assert said["large"] == "has more than 4096 bytes"
    assert said["binary"] == "is not text"
    assert said["pipe"] == said[tmp_path.name] == "is no regular file"
    assert "No such file" in said["absent"]
