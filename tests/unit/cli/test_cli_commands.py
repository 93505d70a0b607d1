"""Each command: what it asks of the server, its JSON form, its exit code."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from fakes.admin import NODE, SPIFFE_ID, T0

from meshca.client.values import (
    AuditRecord,
    AuditVerification,
    Authorities,
    Authority,
    CertificateQuery,
    CertificateRecord,
    Decision,
    Reason,
    Registration,
    RotationProgress,
    Status,
    Stream,
)

if TYPE_CHECKING:
    from fakes.shell import Shell

HOUR = timedelta(hours=1)
READY = Status("ready", "m.test", None, "127.0.0.1:8080", "/s", 3, 4, ("w",))
STARTING = Status("starting", "m.test", None, None, "/s", 3, 4)


def test_status(shell: Shell) -> None:
    assert shell.json("status") == {
        "state": "ready", "trust_domain": "m.test", "grpc": None, "http": "127.0.0.1:8080",
        "socket": "/h/run/meshca.sock", "revision": 3, "trust_generation": 4, "warnings": ["w"],
    }  # fmt: skip


def test_status_waits_until_the_server_is_ready(shell: Shell) -> None:
    shell.admin.status_answers = [STARTING, STARTING, READY]

    assert shell.json("status", "--wait", "10")["state"] == "ready"
    assert len(shell.admin.calls) == 3


def test_status_says_when_it_is_not_ready_in_time(shell: Shell) -> None:
    shell.admin.status_answers = [STARTING]

    assert "not ready after 0.2 s" in shell.run("status", "--wait", "0.2", code=1).stderr


def test_status_waits_for_a_server_that_is_not_there_yet(alone: Shell) -> None:
    result = alone.run("status", "--wait", "0", "-o", "json", code=1)

    assert (result.stdout, result.stderr) == ("", "not ready after 0 s\n")


@pytest.mark.parametrize(("allowed", "code"), [(True, 0), (False, 1)])
def test_can(shell: Shell, allowed: bool, code: int) -> None:
    shell.admin.decision = Decision(allowed, SPIFFE_ID, "spiffe://m.test/b", (Reason("o", "spec.f", "because"),))

    assert shell.json("can", "front", "back", "--port", "80", code=code) == {
        "allowed": allowed, "client": SPIFFE_ID, "server": "spiffe://m.test/b",
        "reasons": [{"object": "o", "field": "spec.f", "text": "because"}],
    }  # fmt: skip
    assert shell.admin.calls == [("can", "front", "back", 80)]
    assert "o spec.f: because" in shell.run("can", "front", "back", code=code).stdout


def test_can_of_an_unknown_node_is_an_error_and_not_a_no(shell: Shell) -> None:
    assert "no such node" in shell.run("can", "front", "back", code=3).stderr
    assert shell.run("can", "front", "back", "--port", "0", code=2)


def test_register(shell: Shell) -> None:
    document = shell.json("register", "front", "--selector", "unix:uid:1", "--selector", "unix:gid:2")

    assert document == {"id": "r1", "spiffe_id": SPIFFE_ID, "selectors": ["unix:uid:1", "unix:gid:2"]}
    assert shell.admin.calls == [("register", "front", ("unix:uid:1", "unix:gid:2"), "")]
    shell.run("register", "front", code=2)


def test_registrations_and_unregister(shell: Shell) -> None:
    shell.admin.entries = [Registration("r1", SPIFFE_ID, ("unix:uid:1",))]

    assert shell.json("registrations") == [{"id": "r1", "spiffe_id": SPIFFE_ID, "selectors": ["unix:uid:1"]}]
    assert shell.json("unregister", "r1") == {"id": "r1"}
    assert shell.admin.calls[-1] == ("unregister", "r1")


def test_certs(shell: Shell) -> None:
    hour = T0 + timedelta(hours=1)
    shell.admin.records = [
        CertificateRecord("0a", SPIFFE_ID, "valid", T0, hour, "ca1"),
        CertificateRecord("0b", SPIFFE_ID, "revoked", T0, hour, "ca1", T0, "keyCompromise"),
    ]
    first, second = shell.json("certs", "--node", "front", "--state", "revoked")

    assert first == {
        "serial": "0a", "spiffe_id": SPIFFE_ID, "state": "valid", "not_before": "2026-11-25T12:00:00Z",
        "not_after": "2026-11-25T13:00:00Z", "issuer": "ca1", "revoked_at": None, "reason": None,
    }  # fmt: skip
    assert (second["revoked_at"], second["reason"]) == ("2026-11-25T12:00:00Z", "keyCompromise")
    assert shell.admin.calls == [("certificate_page", CertificateQuery("front", "revoked"), 10_000, "")]


def test_revoke(shell: Shell) -> None:
    document = shell.json("revoke", "0a", "--reason", "keyCompromise")

    assert document == {
        "revoked": ["0a"], "suspended": False, "crl_number": 7,
        "envoys": {"notified": 2, "acknowledged": 1, "not_drainable": 0}, "elapsed_ms": 12,
    }  # fmt: skip
    assert shell.admin.calls == [("revoke", "0a", "", "keyCompromise", None)]


def test_revoke_of_a_node_waits_when_told_to_and_says_who_is_missing(shell: Shell) -> None:
    result = shell.run("revoke", "--node", "front", "--wait")

    assert shell.admin.calls == [("revoke", "", "front", "unspecified", timedelta(seconds=30))]
    assert "1 Envoys have not acknowledged" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["0a", "--node", "n"], ["0a", "--reason", "certificateHold"]])
def test_revoke_wants_one_thing_and_a_reason_of_rfc_5280(shell: Shell, arguments: list[str]) -> None:
    shell.run("revoke", *arguments, code=2)
    assert shell.admin.calls == []


def test_freeze_and_unfreeze(shell: Shell) -> None:
    shown = shell.json("freeze", "--reason", "a leak")
    assert shown == {"frozen_since": "2026-11-25T12:00:00Z", "reason": "a leak"}
    assert shell.json("freeze")["reason"] is None
    assert shell.json("unfreeze") == {"frozen_since": None}
    assert shell.admin.calls == [("freeze", "a leak"), ("freeze", ""), ("unfreeze",)]


def test_resume_and_rotate(shell: Shell) -> None:
    assert shell.json("resume", "front") == {"spiffe_id": SPIFFE_ID}
    assert shell.json("rotate", "leaf", "front") == {"streams": 2}


ENVELOPES: list[dict[str, Any]] = [
    {"meshName": "m", "spec": {}},
    {"meshName": "m", "virtualRouterName": "r", "routeName": "x", "spec": {}},
    {"meshName": "m", "virtualRouterName": "s", "routeName": "x", "spec": {}},
]


def test_get(shell: Shell) -> None:
    shell.admin.objects = ENVELOPES

    assert shell.json("get") == ENVELOPES
    assert shell.json("get", "route", "s/x", "--mesh", "m") == ENVELOPES[2:]
    assert shell.admin.calls[-1] == ("get", "route", "x", "m")
    table = shell.run("get").stdout
    assert [line.split() for line in table.splitlines()[2:]] == [
        ["mesh", "m", "m", "-"], ["route", "m", "x", "r"], ["route", "m", "x", "s"]
    ]  # fmt: skip


def test_delete(shell: Shell) -> None:
    assert shell.json("delete", "route", "r/x", "--mesh", "m") == {"revision": 9}
    assert shell.admin.calls == [("delete", "route", "x", "m", "r")]
    shell.run("delete", "VirtualNode", "x", code=2)


def test_ca_show(shell: Shell) -> None:
    prepared = Authority(
        "i", "prepared", T0, 2, ("n",), activate_at=T0, deadline=T0 + HOUR, tainted=True, parent="r", key="store:i"
    )
    shell.admin.cas = Authorities((Authority("r", "active", T0, 1, parent="r"),), (prepared,))

    found = shell.json("ca", "show")
    assert found["roots"] == [{
        "id": "r", "state": "active", "not_after": "2026-11-25T12:00:00Z", "generation": 1, "waiting_for": [],
        "activate_at": None, "deadline": None, "tainted": False, "parent": "r", "key": "",
    }]  # fmt: skip
    assert found["issuing"] == [{
        "id": "i", "state": "prepared", "not_after": "2026-11-25T12:00:00Z", "generation": 2, "waiting_for": ["n"],
        "activate_at": "2026-11-25T12:00:00Z", "deadline": "2026-11-25T13:00:00Z", "tainted": True, "parent": "r",
        "key": "store:i",
    }]  # fmt: skip
    assert found["intermediates"] == []
    assert "issuing" in shell.run("ca", "show").stdout


@pytest.mark.parametrize("role", ["root", "issuing"])
def test_rotate_says_what_was_prepared_and_whom_it_waits_for(shell: Shell, role: str) -> None:
    shell.admin.progress = [RotationProgress("new", role, "prepared", 2, ("web stream:1",), T0)]

    assert shell.json("rotate", role) == {
        "id": "new", "state": "prepared", "waiting_for": ["web stream:1"], "deadline": "2026-11-25T12:00:00Z",
    }  # fmt: skip
    assert shell.admin.calls == [("rotate_authority", role), ("watch_rotation", "new")]


def test_rotate_can_wait_and_tells_each_step(shell: Shell) -> None:
    shell.admin.progress = [
        RotationProgress("new", "issuing", "prepared", 2, tuple("abcdef"), T0),
        RotationProgress("new", "issuing", "active", 2),
    ]

    done = shell.run("rotate", "issuing", "--wait", "-o", "json")
    assert json.loads(done.stdout)["state"] == "active"
    assert "waits for a, b, c, d, e and 1 more, until 2026-11-25T12:00:00Z" in done.stderr


def test_ca_taint(shell: Shell) -> None:
    assert shell.json("ca", "taint", "i") == {"tainted": ["i"]}
    assert shell.admin.calls == [("taint_authority", "i")]


def test_bundle(shell: Shell) -> None:
    shell.admin.bundles = {"pem": b"PEM\n", "spiffe": b'{"keys": []}'}

    assert shell.run("bundle").stdout == "PEM\n"
    assert shell.json("bundle") == {"bundle": "PEM\n"}
    assert shell.json("bundle", "--format", "spiffe") == {"keys": []}
    assert shell.run("bundle", "--format", "spiffe").stdout == '{"keys": []}\n'


def test_envoy_list(shell: Shell) -> None:
    shell.admin.rows = [
        Stream(NODE, SPIFFE_ID, "t", "2", "1", "bad \x1b[31m", T0),
        Stream(NODE, SPIFFE_ID, "t", "2", "", "", T0),
    ]

    first, second = shell.json("envoy", "list")
    assert first == {
        "node_id": NODE, "spiffe_id": SPIFFE_ID, "type_url": "t", "version_sent": "2", "version_acked": "1",
        "nack": "bad \x1b[31m", "connected_since": "2026-11-25T12:00:00Z",
    }  # fmt: skip
    assert (second["version_acked"], second["nack"]) == (None, None)
    assert "\x1b[31m" not in shell.run("envoy", "list").stdout


def test_audit(shell: Shell) -> None:
    shell.admin.audit = [AuditRecord("w", 1, T0, "uid:0", "issue", SPIFFE_ID, "refused", "why", "ab")]

    assert shell.json("audit", "tail", "-n", "7") == [
        {"seq": 1, "time": "2026-11-25T12:00:00Z", "actor": "uid:0", "action": "issue", "subject": SPIFFE_ID,
         "outcome": "refused", "reason": "why", "hash": "ab"}
    ]  # fmt: skip
    assert shell.admin.calls == [("audit_tail", 7)]
    assert shell.json("audit", "verify") == {"intact": True, "records": 3, "findings": []}
    shell.admin.verification = AuditVerification(intact=False, records=3, findings=("seq 2 was changed",))
    assert shell.json("audit", "verify", code=1)["findings"] == ["seq 2 was changed"]


def test_tables_are_not_cut_when_nobody_looks(shell: Shell) -> None:
    shell.admin.entries = [Registration("r" * 300, SPIFFE_ID, ("unix:uid:1",))]

    assert "r" * 300 in shell.run("registrations").stdout


def test_nothing_found_is_said_on_stderr(shell: Shell) -> None:
    result = shell.run("registrations")

    assert (result.stdout, result.stderr) == ("", "none\n")
    assert shell.json("registrations") == []
