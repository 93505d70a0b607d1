from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.authority.lifetimes import Lifetimes
from meshca.authority.profiles import Limits
from meshca.errors import NotFoundError
from meshca.server.config import Address, Config, ConfigError, parse_address, parse_config, read_config, write_config

WHOLE = Config(
    lifetimes=Lifetimes(root=timedelta(days=300), issuing=timedelta(days=30), leaf=timedelta(minutes=10)),
    grpc=Address("0.0.0.0", 1),
    http=Address("::1", 0),
    store_url='postgresql://u:p"w\\@h/db',
    retention=timedelta(days=7),
    root_key="openbao:transit/root",
    key_type="ec-p384",
    upstream="openbao:pki/corp",
    ack_deadline=timedelta(hours=2),
    profiles={
        "svid": Limits(max_ttl=timedelta(minutes=5), key_types=("ec-p384",), dns_names=False),
        "admin": Limits(dns_names=False),
    },
)


@pytest.mark.parametrize("config", [Config(), WHOLE])
def test_what_is_written_reads_back_the_same(config: Config) -> None:
    assert parse_config(write_config(config), "meshca.toml") == config


def test_an_empty_file_means_the_defaults() -> None:
    assert parse_config("", "meshca.toml") == Config()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        pytest.param('[listen]\nhtpp = "a:1"', 2, "[listen] htpp: unknown key", id="unknown-key"),
        pytest.param('\n\n[lifetime]\nleaf = "1h"', 3, "unknown section", id="unknown-section"),
        pytest.param("[listen]\n\nhttp = 8080", 3, "is text, not int", id="wrong-type"),
        pytest.param('[lifetimes]\nroot = "10y"\nleaf = "60 minutes"', 3, "not a duration", id="wrong-unit"),
        pytest.param('[lifetimes]\nleaf = "20d"', 1, "third", id="wrong-ratio"),
        pytest.param('listen = "127.0.0.1:1"', 1, "is a section", id="not-a-section"),
        pytest.param('[store]\nurl = ""\n[listen]\ngrpc = "localhost"', 4, "not an address", id="no-port"),
        pytest.param('[listen]\nhttp = "127.0.0.1:65536"', 2, "not an address", id="port-too-large"),
        pytest.param('[authority]\nack_deadline = "soon"', 2, "not a duration", id="no-deadline"),
        pytest.param('[store]\nretention = "1h"', 2, "[store] retention: shorter than a day", id="short-retention"),
        pytest.param('listen.htpp = "x"', 1, "unknown key", id="dotted"),
        pytest.param('\n[profiles.leaf]\nmax_ttl = "1m"', 2, "no profile of ours (got 'leaf')", id="unknown-profile"),
        pytest.param('[profiles.intermediate]\nmax_ttl = "1y"', 1, "no profile of ours", id="upstreams-profile"),
        pytest.param('[profiles.svid]\nttl = "1m"', 2, "[profiles.svid] knows max_ttl", id="unknown-limit"),
        pytest.param("[profiles.svid]\nmax_ttl = 60", 2, "is text, not int", id="limit-without-unit"),
        pytest.param('[profiles.svid]\nkey_types = "ec-p256"', 2, "is a list of texts", id="no-list"),
        pytest.param("[profiles.svid]\nkey_types = [1]", 2, "is a list of texts", id="list-of-numbers"),
        pytest.param('[profiles.svid]\ndns_names = "no"', 2, "is true or false", id="no-boolean"),
        pytest.param("profiles = 1", 1, "is a section", id="profiles-is-no-section"),
        pytest.param("[profiles]\nsvid = 1", 1, "is a section", id="profile-is-no-section"),
        pytest.param(
            '[profiles.svid]\nmax_ttl = "91d"',
            2,
            "longer than the profile svid allows (got '91d'); at most 90d: a limit can be tightened, not loosened",
            id="loosened-life",
        ),
        pytest.param(
            '[profiles.root]\n\nkey_types = ["ec-p256", "rsa-2048"]',
            3,
            "not one or more of the key types of the profile root (got 'rsa-2048'); choose among ec-p256, ec-p384",
            id="loosened-keys",
        ),
        pytest.param(
            '[keys]\ntype = "ec-p256"\n[profiles.issuing]\nkey_types = ["ec-p384"]',
            4,
            "the key type of new CAs is not among them; [keys] type is ec-p256",
            id="other-key-type",
        ),
        pytest.param('[profiles.root]\nkey_types = ["ec-p384"]', 2, "type is ec-p256", id="other-key-type-by-default"),
        pytest.param("[profiles.root]\nkey_types = []", 2, "(got 'none')", id="no-key-type"),
        pytest.param("[profiles.admin]\ndns_names = true", 2, "has no DNS names (got 'true')", id="loosened-names"),
    ],
)
def test_an_error_names_file_line_and_fault(text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "meshca.toml")
    assert str(caught.value).startswith(f"meshca.toml:{line}: ")
    assert words in str(caught.value)


def test_broken_toml_names_the_line() -> None:
    for text in ("[listen]\nhttp =", "[listen]\nhttp = @\n\n"):
        with pytest.raises(ConfigError, match=r"^meshca\.toml:2: not TOML"):
            parse_config(text, "meshca.toml")


def test_a_missing_or_binary_file_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_config(tmp_path / "meshca.toml")
    (tmp_path / "meshca.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_config(tmp_path / "meshca.toml")


def test_the_store_url_never_shows() -> None:
    assert "p" + '"w' not in repr(WHOLE)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_an_error_of_ours(text: str) -> None:
    try:
        address = parse_address(text)
    except ConfigError:
        return
    assert parse_address(str(address)) == address


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_config(text, "meshca.toml")
