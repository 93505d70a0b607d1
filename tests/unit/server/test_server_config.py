from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.authority.lifetimes import Lifetimes
from meshca.errors import NotFoundError
from meshca.server.config import Address, Config, ConfigError, parse_address, parse_config, read_config, write_config

WHOLE = Config(
    lifetimes=Lifetimes(root=timedelta(days=300), issuing=timedelta(days=30), leaf=timedelta(minutes=10)),
    grpc=Address("0.0.0.0", 1),
    http=Address("::1", 0),
    store_url='postgresql://u:p"w\\@h/db',
    root_key="bao:root",
    upstream="vault:pki",
    ack_deadline=timedelta(hours=2),
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
        pytest.param('listen.htpp = "x"', 1, "unknown key", id="dotted"),
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
