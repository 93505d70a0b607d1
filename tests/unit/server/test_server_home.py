from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.server_world import PASSPHRASE, temporary_home

from meshca.errors import InvalidInputError, MeshcaError, NotFoundError
from meshca.keys.passphrase import Passphrase, PassphraseError
from meshca.keys.sealed import WrongPassphraseError
from meshca.server.building import HomeExistsError
from meshca.server.config import Config
from meshca.server.home import Home, HomeInUseError, SocketPathError
from meshca.server.house import open_house
from meshca.server.init import InitOptions, initialise
from meshca.server.run import serve
from meshca.spiffe.id import TrustDomain


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with temporary_home() as made:
        yield made


def options(**change: object) -> InitOptions:
    known = {"trust_domain": TrustDomain("shop.test"), "passphrase": lambda _: Passphrase(PASSPHRASE, "test")}
    return InitOptions(**(known | change))  # type: ignore[arg-type]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def listing(path: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(path)): (p.stat().st_mtime_ns, p.stat().st_size) for p in path.rglob("*")}


def test_a_new_home_has_the_modes_of_the_design(home: Home) -> None:
    home.secure()
    assert [mode(path) for path in (home.path, home.run, home.inner, home.keys)] == [0o711, 0o711, 0o700, 0o700]
    assert {mode(path) for path in (home.config, home.database, *home.keys.iterdir())} == {0o600}


def test_a_mode_that_is_too_wide_is_narrowed(home: Home) -> None:
    home.config.chmod(0o644)
    home.secure()
    assert mode(home.config) == 0o600


def test_a_second_init_refuses_and_changes_nothing(home: Home) -> None:
    before = listing(home.path)
    with pytest.raises(HomeExistsError):
        initialise(home, options())
    assert listing(home.path) == before


def test_an_init_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(_: Path) -> Passphrase:
        raise PassphraseError("no passphrase")

    for made in (False, True):
        if made:
            (tmp_path / "home").mkdir()
        with pytest.raises(PassphraseError):
            initialise(Home.at(tmp_path / "home"), options(passphrase=fail))
        assert list(tmp_path.rglob("*")) == ([tmp_path / "home"] if made else [])


def test_an_empty_folder_becomes_a_home(tmp_path: Path) -> None:
    made = initialise(Home.at(tmp_path), options())
    made.home.require_initialised()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "meshca.db", "meshca.toml"]


@pytest.mark.parametrize(
    "change", [{"root_key": "pkcs11:x"}, {"issuing_key": "bao:x"}, {"key_type": "rsa"}, {"upstream": "x"}]
)
def test_what_is_unknown_or_comes_later_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError):
        initialise(Home.at(tmp_path), options(**change))


def test_a_second_server_on_a_home_is_refused(home: Home) -> None:
    lock = home.lock()
    try:
        with pytest.raises(HomeInUseError, match=str(os.getpid())):
            serve(home, Config(), PASSPHRASE)
    finally:
        lock.release()
    home.lock().release()


def test_a_socket_path_that_the_kernel_cannot_take_is_refused(tmp_path: Path) -> None:
    deep = Home.at(tmp_path / ("x" * 100))
    with pytest.raises(SocketPathError, match="shorter"):
        initialise(deep, options())
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_passphrase_is_an_error_at_start(home: Home) -> None:
    with pytest.raises(WrongPassphraseError):
        open_house(home, Config(), b"wrong")


def test_an_unreadable_key_is_an_error_at_start(home: Home) -> None:
    key = next(home.keys.iterdir())
    kept = key.read_bytes()
    key.write_bytes(b"{}")
    try:
        with pytest.raises(MeshcaError, match=key.name):
            open_house(home, Config(), PASSPHRASE)
    finally:
        key.write_bytes(kept)


def test_serving_what_is_no_home_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="meshca init"):
        serve(Home.at(tmp_path), Config(), PASSPHRASE)
