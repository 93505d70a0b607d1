"""`--kubernetes-node` of `agent` and `serve`: what it makes of its environment, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from meshca.attest.pods import PodList

if TYPE_CHECKING:
    from pathlib import Path

    from fakes.shell import Shell

CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
VARIABLE = "MESHCA_KUBERNETES_NODE"


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give a command line of an agent; a real one is started in tests/unit/agent."""
    for name in (*CLUSTER, VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("meshca.cli.serve.log_to_stderr", lambda: None)
    (tmp_path / "bundle").write_bytes(b"")
    return ["agent", "--server", "ca.test:8443", "--method", "k8s_sa", "--bundle", str(tmp_path / "bundle")]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Give the options that agents were started with."""
    found: list[Any] = []
    monkeypatch.setattr("meshca.agent.run.run_agent", lambda options, _: found.append(options))
    return found


def test_an_agent_lists_the_pods_of_the_node_that_it_is_told(
    alone: Shell, agent: list[str], started: list[Any]
) -> None:
    alone.run(*agent, env=CLUSTER)
    alone.run(*agent, env={**CLUSTER, VARIABLE: ""})
    alone.run(*agent, env={**CLUSTER, VARIABLE: "node-1"})
    alone.run(*agent, "--kubernetes-node", "node-2", env={**CLUSTER, VARIABLE: "node-1"})
    assert [options.pods and options.pods._node for options in started] == [None, None, "node-1", "node-2"]
    assert isinstance(started[-1].pods, PodList)


@pytest.mark.parametrize(
    ("node", "environ", "why"),
    [("node-1", {}, "KUBERNETES_SERVICE_HOST"), ("node-1,x=y", CLUSTER, "no name of a node")],
)
def test_what_leads_to_no_list_is_said_at_the_start(
    alone: Shell, agent: list[str], started: list[Any], node: str, environ: dict[str, str], why: str
) -> None:
    said = alone.run(*agent, "--kubernetes-node", node, env=environ, code=1).stderr
    assert why in said
    assert "--kubernetes-node" in said
    assert started == []


def test_a_server_takes_it_as_well(alone: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr("meshca.cli.serve.log_to_stderr", lambda: None)
    monkeypatch.setattr("meshca.server.run.serve", lambda *given: found.append(given[4]))
    (alone.home / "run").rmdir()
    alone.run("init", "--trust-domain", "m.test")
    alone.run("serve", env=CLUSTER)
    alone.run("serve", "--kubernetes-node", "node-1", env=CLUSTER)
    assert found[0] is None
    assert found[1]._node == "node-1"
