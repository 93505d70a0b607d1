"""`apply --dry-run`, `--wait`, `--rollback-on-nack`, and `endpoint`: the documents that others rely on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from meshca.client.values import Applied, Change, Effect, EnvoyProgress, Permission, ResourceChange

if TYPE_CHECKING:
    from pathlib import Path

    from fakes.shell import Shell

FRONT, BACK = "mesh/m/virtualNode/front", "mesh/m/virtualNode/back"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
CHANGED = Applied(5, (Change("changed", "virtualNode", "m", "front"),))
WAITING, DONE = EnvoyProgress(BACK, "spiffe://b", "waiting"), EnvoyProgress(BACK, "spiffe://b", "acknowledged")
REJECTED = EnvoyProgress(FRONT, "spiffe://f", "rejected", "cannot bind 127.0.0.1:80")


@pytest.fixture
def spec(tmp_path: Path) -> str:
    file = tmp_path / "m.json"
    file.write_text(json.dumps({"meshName": "m", "spec": {"egressFilter": {"type": "ALLOW_ALL"}}}))
    return str(file)


def test_a_dry_run_says_three_things(shell: Shell, spec: str) -> None:
    shell.admin.applied = Applied(
        4,
        (Change("removed", "virtualNode", "m", "back"),),
        (Permission("spiffe://f", "spiffe://b", 80, allowed=False),),
        (),
        (
            Effect(FRONT, (f"{FRONT}/1",), (ResourceChange("changed", LISTENER, "l"),)),
            Effect(BACK, (), (), "not generated yet: x"),
        ),
    )
    document = shell.json("apply", "-f", spec, "--dry-run")

    assert document == {
        "revision": 4,
        "changes": [{"change": "removed", "kind": "virtualNode", "mesh": "m", "name": "back", "parent": None}],
        "permissions": [{"client": "spiffe://f", "server": "spiffe://b", "port": 80, "allowed": False}],
        "warnings": [],
        "findings": [],
        "effects": [
            {
                "node": FRONT,
                "envoys": [f"{FRONT}/1"],
                "resources": [{"change": "changed", "type_url": LISTENER, "name": "l"}],
                "problem": None,
            },
            {"node": BACK, "envoys": [], "resources": [], "problem": "not generated yet: x"},
        ],
    }
    text = shell.run("apply", "-f", spec, "--dry-run").stdout
    assert text.splitlines() == [
        "removed   virtualNode/back in m",
        "no longer may call: spiffe://f -> spiffe://b port 80",
        f"would be sent to {FRONT} (1 Envoy: {FRONT}/1):",
        "  ~ Listener l",
        f"would be sent to {BACK} (no Envoy connected):",
        "  nothing else: not generated yet: x",
        "dry run: nothing was changed",
    ]


def test_wait_ends_well_once_everybody_has_acknowledged(shell: Shell, spec: str) -> None:
    shell.admin.applied, shell.admin.envoys = CHANGED, [(WAITING,), (DONE,)]
    document = shell.json("apply", "-f", spec, "--wait", "7")

    assert shell.admin.calls[-1] == ("watch_revision", 5, 7.0)
    envoy = {"node_id": BACK, "spiffe_id": "spiffe://b", "state": "acknowledged", "message": None}
    assert (document["envoys"], document["rolled_back_to"]) == ([envoy], None)
    assert "acknowledged by 1 of 1 Envoys" in shell.run("apply", "--wait", "-f", spec).stdout
    assert shell.admin.calls[-1] == ("watch_revision", 5, 60.0)


@pytest.mark.parametrize("state", ["waiting", "gone", "rejected"])
def test_wait_ends_with_1_where_somebody_has_not(shell: Shell, spec: str, state: str) -> None:
    shell.admin.applied, shell.admin.envoys = CHANGED, [(DONE, EnvoyProgress(FRONT, "spiffe://f", state, "why"))]
    result = shell.run("apply", "-f", spec, "--wait", code=1)

    assert f"{state:<9} {FRONT}: why" in result.stdout
    assert ("has rejected revision 5: why" in result.stderr) == (state == "rejected")
    assert all(call[0] != "rollback" for call in shell.admin.calls)


def test_a_nack_is_said_once_and_rolled_back(shell: Shell, spec: str) -> None:
    shell.admin.applied = CHANGED
    shell.admin.envoys = [(WAITING,), (WAITING, REJECTED), (DONE, REJECTED)]
    result = shell.run("apply", "-f", spec, "--rollback-on-nack", code=1)

    assert result.stderr.count("cannot bind 127.0.0.1:80") == 1
    assert "rolled back: revision 6 is what there was before 5" in result.stdout
    assert shell.admin.calls[-1] == ("rollback", 5)


def test_what_changes_nothing_is_not_waited_for(shell: Shell, spec: str) -> None:
    shell.admin.applied = Applied(5, (Change("unchanged", "mesh", "m", "m"),))
    assert "envoys" not in shell.json("apply", "-f", spec, "--rollback-on-nack")
    assert [call[0] for call in shell.admin.calls] == ["apply"]


def test_endpoints(shell: Shell) -> None:
    assert shell.json("endpoint", "add", "back", "10.0.0.1", "10.0.0.2") == [
        {"node": FRONT, "address": "10.0.0.1", "port": None},
        {"node": FRONT, "address": "10.0.0.2", "port": None},
    ]
    assert shell.json("endpoint", "remove", "back", "10.0.0.1:80") == []
    assert shell.json("endpoint", "list") == [{"node": FRONT, "address": "10.0.0.1", "port": 80}]
    shell.run("endpoint", "list", "back")
    assert shell.admin.calls == [
        ("add_endpoints", "back", ("10.0.0.1", "10.0.0.2")),
        ("remove_endpoints", "back", ("10.0.0.1:80",)),
        ("endpoints", ""),
        ("endpoints", "back"),
    ]
