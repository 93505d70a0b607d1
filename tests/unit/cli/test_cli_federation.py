"""`meshca federate` and `register --federates-with`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from fakes.shell import Shell

from meshca.client.values import Federating, Federation

T0 = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
FOUND = Federation("e.test", "https://e.test/", "https_web", "", 2, 1, 7, T0, T0)
DOCUMENT = {
    "trust_domain": "e.test", "url": "https://e.test/", "profile": "https_web", "endpoint_id": None, "roots": 2,
    "jwt_keys": 1, "sequence": 7, "fetched_at": "2026-11-25T12:00:00Z", "due_at": "2026-11-25T12:00:00Z",
    "failure": None,
}  # fmt: skip


@pytest.fixture
def shell(shell: Shell) -> Shell:
    shell.admin.federated = [FOUND]
    return shell


def test_federate_sends_what_was_told(shell: Shell, tmp_path: Path) -> None:
    bundle = tmp_path / "b.json"
    bundle.write_bytes(b"{}")
    told = ["--url", "https://e.test/", "--profile", "https_spiffe", "--endpoint-id", "spiffe://e.test/s"]
    assert shell.json("federate", "e.test", *told, "--bundle", str(bundle)) == DOCUMENT
    wanted = Federating("e.test", "https://e.test/", "https_spiffe", "spiffe://e.test/s", b"{}")
    assert shell.admin.calls == [("federate", wanted)]


def test_list_refresh_and_remove(shell: Shell) -> None:
    assert shell.json("federate") == [DOCUMENT]
    assert shell.json("federate", "e.test") == [DOCUMENT]
    assert shell.json("federate", "other.test") == []
    assert shell.json("federate", "e.test", "--refresh") == DOCUMENT
    assert shell.json("federate", "e.test", "--remove") == {"trust_domain": "e.test"}
    assert shell.admin.calls[-2:] == [("refresh_federation", "e.test"), ("unfederate", "e.test")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "https://e.test/"],
        ["--remove"],
        ["e.test", "--remove", "--refresh"],
        ["e.test", "--url", "https://e.test/", "--remove"],
        ["e.test", "--profile", "https_web"],
        ["e.test", "--refresh", "--bundle", "x"],
        ["e.test", "--url", "https://e.test/", "--profile", "http"],
    ],
)
def test_what_does_not_go_together_is_a_usage_error(shell: Shell, arguments: list[str]) -> None:
    shell.run("federate", *arguments, code=2)
    assert shell.admin.calls == []


def test_a_registration_says_whom_it_federates_with(shell: Shell) -> None:
    document = shell.json("register", "front", "--selector", "unix:uid:1", "--federates-with", "e.test")
    assert document["federates_with"] == ["e.test"]
    assert shell.admin.calls == [("register", "front", ("unix:uid:1",), "", "e.test")]
