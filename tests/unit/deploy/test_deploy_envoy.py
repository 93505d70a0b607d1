"""What deploy/ gives to Envoy, on the real one: bootstraps that are written down, the question whether it is live."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from envoy_binary import free_port, require_valid, running
from unit.deploy.deploy_files import READY, Document, intercepted_bootstrap, manifests, named, task_definition

from meshca.cli.demo.envoy import EnvoyProcess, find_envoy
from meshca.errors import NotFoundError


def _written() -> dict[str, Document]:
    (config,) = (one for one in manifests("example") if one["kind"] == "ConfigMap")
    tasks = {launch: named(task_definition(launch)["containerDefinitions"], "envoy") for launch in ("fargate", "ec2")}
    return {
        "kubernetes": yaml.safe_load(config["data"]["bootstrap.yaml"]),
        **{launch: json.loads(envoy["command"][1]) for launch, envoy in tasks.items()},
    }


@pytest.mark.parametrize("where", ["kubernetes", "fargate", "ec2"])
def test_envoy_takes_the_bootstrap(where: str, tmp_path: Path) -> None:
    require_valid(_written()[where], tmp_path)


def _asked(port: int) -> int:
    question = READY.replace("/9901", f"/{port}")
    assert question != READY
    return subprocess.run(["bash", "-c", question], capture_output=True, check=False, timeout=10).returncode


def test_the_probe_sees_a_live_envoy(tmp_path: Path) -> None:
    port = free_port()
    document = {"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    assert _asked(port) != 0
    with running(document, tmp_path):
        assert _asked(port) == 0
    assert _asked(port) != 0


def test_the_probe_sees_that_an_envoy_has_nothing_yet(tmp_path: Path) -> None:
    try:
        binary = find_envoy()
    except NotFoundError as error:
        pytest.skip(str(error))
    port = free_port()
    document = intercepted_bootstrap("mesh/shop/virtualNode/front")
    document["admin"]["address"]["socket_address"]["port_value"] = port
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(document))
    with EnvoyProcess(binary, config) as envoy:
        assert "LIVE" not in envoy.admin("ready"), "it waits for a server that is not there"
        assert _asked(port) != 0
